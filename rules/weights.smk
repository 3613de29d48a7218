localrules:
    fetch_weights,


rule fetch_weights:
    input:
        by_content(OWN_FILES["weights"]),
    output:
        manifest=WEIGHTS,
    log:
        "results/logs/fetch_weights.log",
    conda:
        "../envs/spotesm.yaml"
    params:
        model=config["model"]["name"],
        source=config["model"]["weights"],
        content=content(OWN_FILES["weights"]),
    message:
        "Getting the {params.source} weights of {params.model}"
    script:
        "../workflow_scripts/fetch_weights.py"
