rule translate_contigs:
    input:
        lambda wildcards: fasta_files(wildcards.dataset),
    output:
        "results/{dataset}/orfs.fasta",
    log:
        "results/{dataset}/logs/translate_contigs.log",
    benchmark:
        "results/{dataset}/benchmarks/translate_contigs.tsv"
    conda:
        "../envs/spotesm.yaml"
    params:
        genetic_code=lambda wildcards: config["datasets"][wildcards.dataset].get("genetic_code", 1),
        min_orf=lambda wildcards: config["datasets"][wildcards.dataset].get("min_orf", 30),
    message:
        "Translating the contigs of {wildcards.dataset}"
    script:
        "../workflow_scripts/translate_contigs.py"
