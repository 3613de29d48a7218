localrules:
    plan_run,


rule plan_run:
    input:
        [proteins(dataset) for dataset in config["datasets"]],
    log:
        "results/logs/plan_run.log",
    conda:
        "../envs/spotesm.yaml"
    threads: embed_threads()
    params:
        config=config,
        datasets={dataset: proteins(dataset) for dataset in config["datasets"]},
    message:
        "Estimating what the run will cost"
    script:
        "../workflow_scripts/plan_run.py"
