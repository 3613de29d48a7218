rule translate_contigs:
    input:
        lambda wildcards: by_content(FASTA[wildcards.dataset]),
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
        content=lambda wildcards: content(FASTA[wildcards.dataset]),
        genetic_code=lambda wildcards: DATASETS[wildcards.dataset].genetic_code,
        min_orf=lambda wildcards: DATASETS[wildcards.dataset].min_orf,
        max_rejected=untracked(config["max_rejected"]),
        kept=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
    message:
        "Translating the contigs of {wildcards.dataset}"
    script:
        "../workflow_scripts/translate_contigs.py"
