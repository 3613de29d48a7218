rule translate_contigs:
    input:
        lambda wildcards: by_content(FASTA[wildcards.dataset]),
    output:
        "results/{dataset}/orfs.fasta",
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
    message:
        "Translating the contigs of {wildcards.dataset}"
    script:
        "../workflow_scripts/translate_contigs.py"
