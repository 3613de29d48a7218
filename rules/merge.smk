rule merge_shards:
    input:
        shards=lambda wildcards: expand(
            "results/{dataset}/shards/{scatteritem}.h5",
            dataset=wildcards.dataset,
            scatteritem=shard_names(wildcards.dataset),
        ),
        split="results/{dataset}/shards/split.json",
        split_rejected="results/{dataset}/shards/rejected.tsv",
        stale=stale_result,
        earlier=earlier_result,
    output:
        embeddings="results/{dataset}/embeddings.h5",
        summary="results/{dataset}/summary.json",
    log:
        "results/{dataset}/logs/merge_shards.log",
    benchmark:
        "results/{dataset}/benchmarks/merge_shards.tsv"
    conda:
        "../envs/spotesm.yaml"
    params:
        max_rejected=config["max_rejected"],
        compression=compression_filter(config),
        nucleotide=lambda wildcards: DATASETS[wildcards.dataset].is_nucleotide,
        # Neither an output nor a log: it stays when the job fails, and when that is tried again.
        rejected=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
        earlier=untracked(lambda wildcards: str(DatasetPaths.of(wildcards.dataset).earlier)),
        # Their values would lie on disk twice.
        checkpoints=untracked(
            lambda wildcards: "" if KEEPS_SHARDS else checkpoint_root(wildcards.dataset)
        ),
        config=untracked(config),
        origin=untracked(lambda wildcards: ASKED[wildcards.dataset].input),
    message:
        "Merging the shards of {wildcards.dataset}"
    script:
        "../workflow_scripts/merge_shards.py"
