localrules:
    fetch_weights,


rule fetch_weights:
    input:
        custom_weights(),
    output:
        manifest=WEIGHTS,
    log:
        "results/logs/fetch_weights.log",
    conda:
        "../envs/spotesm.yaml"
    params:
        model=config["model"]["name"],
        source=config["model"]["weights"],
    message:
        "Getting the {params.source} weights of {params.model}"
    script:
        "../workflow_scripts/fetch_weights.py"
