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
        adapter=config["model"]["adapter"],
        logits="logits" in config["outputs"],
        contacts="contacts" in config["outputs"],
        # fair-esm's own forward takes them as they are.
        precision=untracked(
            config["precision"] if config["model"]["engine"] == "packed" else "auto"
        ),
        prepared=untracked(config["model"]["prepared"]),
        content=content(OWN_FILES["weights"]),
    message:
        "Getting the {params.source} weights of {params.model}"
    script:
        "../workflow_scripts/fetch_weights.py"
