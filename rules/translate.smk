rule translate_contigs:
    input:
        fasta=lambda wildcards: by_content(FASTA[wildcards.dataset]),
        stale=lambda wildcards: stale_split(wildcards, "contigs.json"),
    output:
        orfs="results/{dataset}/orfs.fasta",
        rejected="results/{dataset}/contigs-rejected.tsv",
        summary="results/{dataset}/contigs.json",
    log:
        "results/{dataset}/logs/translate_contigs.log",
    benchmark:
        "results/{dataset}/benchmarks/translate_contigs.tsv"
    conda:
        "../envs/spotesm.yaml"
    params:
        fasta=untracked(lambda wildcards: FASTA[wildcards.dataset]),
        origin=untracked(lambda wildcards: ASKED[wildcards.dataset].input),
        genetic_code=lambda wildcards: DATASETS[wildcards.dataset].genetic_code,
        min_orf=lambda wildcards: DATASETS[wildcards.dataset].min_orf,
        max_rejected=untracked(config["max_rejected"]),
        kept=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
    message:
        "Translating the contigs of {wildcards.dataset}"
    script:
        "../workflow_scripts/translate_contigs.py"
