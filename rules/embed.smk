rule embed_shard:
    input:
        fasta="results/{dataset}/shards/{scatteritem}.fasta",
        weights=WEIGHTS,
    output:
        "results/{dataset}/shards/{scatteritem}.h5",
    log:
        "results/{dataset}/logs/embed_shard/{scatteritem}.log",
    benchmark:
        "results/{dataset}/benchmarks/embed_shard/{scatteritem}.tsv"
    conda:
        "../envs/spotesm.yaml"
    threads: embed_threads()
    resources:
        gpu=1,
        tokens_per_batch=0,
    params:
        engine=config["model"]["engine"],
        outputs=config["outputs"],
        layers=config["layers"],
        store_dtype=config["store_dtype"],
        long_sequences=config["long_sequences"],
        precision=config["precision"],
        checkpoints=untracked(checkpoint_directory),
        thresholds=untracked(checkpoint_thresholds()),
        checkpointing=untracked(config["checkpoint"]["enabled"]),
        keep_parts=untracked(config["checkpoint"]["keep_parts"]),
        restart=untracked(restart_token()),
    message:
        "Embedding shard {wildcards.scatteritem} of {wildcards.dataset}"
    script:
        "../workflow_scripts/embed_shard.py"
