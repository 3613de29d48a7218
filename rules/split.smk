# Outputs are the same for all datasets of a rule: one for each number of shards.
for datasets in same_split():

    rule:
        name:
            name_of_split("split_fasta", datasets)
        input:
            fasta=lambda wildcards: proteins(wildcards.dataset),
            contigs=lambda wildcards: translated(wildcards.dataset),
            stale=lambda wildcards: stale_split(wildcards, "shards/split.json"),
        output:
            shards=expand(
                "results/{{dataset}}/shards/{scatteritem}.fasta",
                scatteritem=shard_names(datasets[0]),
            ),
            rejected="results/{dataset}/shards/rejected.tsv",
            summary="results/{dataset}/shards/split.json",
        log:
            "results/{dataset}/logs/split_fasta.log",
        benchmark:
            "results/{dataset}/benchmarks/split_fasta.tsv"
        wildcard_constraints:
            dataset="|".join(datasets),
        conda:
            "../envs/spotesm.yaml"
        params:
            fasta=untracked(lambda wildcards: protein_files(wildcards.dataset)),
            origin=untracked(lambda wildcards: ASKED[wildcards.dataset].input),
            surely_proteins=untracked(
                lambda wildcards: DATASETS[wildcards.dataset].alphabet is not None
            ),
            left_out=untracked(lambda wildcards: FOUND[wildcards.dataset].describe_left_out()),
            max_rejected=untracked(config["max_rejected"]),
            split=untracked(lambda wildcards: asdict(SPLITS[wildcards.dataset])),
            kept=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
        message:
            "Splitting {wildcards.dataset} into shards"
        script:
            "../workflow_scripts/split_fasta.py"
