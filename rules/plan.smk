localrules:
    plan_run,


rule plan_run:
    input:
        [proteins(dataset) for dataset in DATASETS],
    log:
        "results/logs/plan_run.log",
    conda:
        "../envs/spotesm.yaml"
    threads: embed_threads
    params:
        request=REQUEST,
        shards={dataset: split.shards for dataset, split in SPLITS.items()},
        weights=WEIGHTS,
        checkpoints={dataset: checkpoint_root(dataset) for dataset in DATASETS},
        reuse=REUSED,
        datasets={dataset: protein_files(dataset) for dataset in DATASETS},
    message:
        "Estimating what the run will cost"
    script:
        "../workflow_scripts/plan_run.py"
