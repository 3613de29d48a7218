rule embed_shard:
    input:
        fasta="results/{dataset}/shards/{scatteritem}.fasta",
        weights=WEIGHTS,
        reused=reused_datasets,
        stale=stale_shard,
    output:
        shard_file("results/{dataset}/shards/{scatteritem}.h5"),
    log:
        "results/{dataset}/logs/embed_shard/{scatteritem}.log",
    benchmark:
        "results/{dataset}/benchmarks/embed_shard/{scatteritem}.tsv"
    conda:
        "../envs/spotesm.yaml"
    threads: embed_threads
    resources:
        gpu=1,
        mem_mb=embed_memory,
        tokens_per_batch=0,
    params:
        request=REQUEST,
        origin=untracked(lambda wildcards: ASKED[wildcards.dataset].input),
        checkpoints=untracked(checkpoint_directory),
        thresholds=untracked(checkpoint_thresholds(config)),
        checkpointing=untracked(config["checkpoint"]["enabled"]),
        keep_parts=untracked(config["checkpoint"]["keep_parts"]),
        prepared=untracked(config["model"]["prepared"]),
        reuse=untracked(lambda wildcards: REUSED[wildcards.dataset]),
        restart=untracked(RUN if config["checkpoint"]["force_restart"] else ""),
    message:
        "Embedding shard {wildcards.scatteritem} of {wildcards.dataset}"
    script:
        "../workflow_scripts/embed_shard.py"
