localrules:
    report_dataset,


rule report_dataset:
    input:
        embeddings=of_result("embeddings.h5"),
        summary=of_result("summary.json"),
        labels=by_content(OWN_FILES["labels"]),
        stale=stale_report,
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
        labels=untracked(OWN_FILES["labels"]),
        labels_content=OWN_CONTENTS["labels"],
        checkpoints=untracked(lambda wildcards: checkpoint_root(wildcards.dataset)),
    message:
        "Reporting on {wildcards.dataset}"
    script:
        "../workflow_scripts/report_dataset.py"
