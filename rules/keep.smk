localrules:
    keep_earlier,


# Snakemake removes the old result before it merges the new one; so it gets a second name first.
rule keep_earlier:
    output:
        temp(touch(f".snakemake/spotesm/{RUN}/{{dataset}}.kept")),
    log:
        "results/{dataset}/logs/keep_earlier.log",
    conda:
        "../envs/spotesm.yaml"
    params:
        result=lambda wildcards: DatasetPaths.of(wildcards.dataset).embeddings,
        earlier=lambda wildcards: DatasetPaths.of(wildcards.dataset).earlier,
    message:
        "Keeping the earlier result of {wildcards.dataset}"
    shell:
        "(ln -f {params.result:q} {params.earlier:q} || cp {params.result:q} {params.earlier:q}) 2> {log:q}"
