localrules:
    report_dataset,


rule report_dataset:
    input:
        embeddings="results/{dataset}/embeddings.h5",
        summary="results/{dataset}/summary.json",
        labels=by_content(OWN_FILES["labels"]),
    output:
        report(
            "results/{dataset}/report.html",
            caption="../docs/captions/report.rst",
            category="spotESM",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "results/{dataset}/logs/report_dataset.log",
    benchmark:
        "results/{dataset}/benchmarks/report_dataset.tsv"
    conda:
        "../envs/spotesm.yaml"
    params:
        rejected=untracked(lambda wildcards: rejected_list(wildcards.dataset)),
        labels_content=content(OWN_FILES["labels"]),
        checkpoints=untracked(lambda wildcards: checkpoint_root(wildcards.dataset)),
    message:
        "Reporting on {wildcards.dataset}"
    script:
        "../workflow_scripts/report_dataset.py"
