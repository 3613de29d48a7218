rule split_fasta:
    input:
        fasta=lambda wildcards: proteins(wildcards.dataset),
        contigs=lambda wildcards: translated(wildcards.dataset),
        stale=lambda wildcards: stale_split(wildcards, "shards/split.json"),
    output:
        shards=scatter.shard("results/{{dataset}}/shards/{scatteritem}.fasta"),
        rejected="results/{dataset}/shards/rejected.tsv",
        summary="results/{dataset}/shards/split.json",
    log:
        "results/{dataset}/logs/split_fasta.log",
    benchmark:
        "results/{dataset}/benchmarks/split_fasta.tsv"
    conda:
        "../envs/spotesm.yaml"
    params:
        fasta=untracked(lambda wildcards: protein_files(wildcards.dataset)),
        origin=untracked(lambda wildcards: ASKED[wildcards.dataset].input),
        surely_proteins=untracked(
            lambda wildcards: DATASETS[wildcards.dataset].alphabet is not None
        ),
        max_rejected=untracked(config["max_rejected"]),
        kept=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
    message:
        "Splitting {wildcards.dataset} into shards"
    script:
        "../workflow_scripts/split_fasta.py"
