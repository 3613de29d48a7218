localrules:
    fetch_weights,


rule fetch_weights:
    input:
        own=by_content(OWN_FILES["weights"]),
        stale=mark_stale(WEIGHTS, lambda path: is_manifest_of(path, OWN_CONTENTS["weights"])),
    output:
        # Stays until it is replaced: another run may be reading it.
        manifest=update(WEIGHTS),
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
        contents=OWN_CONTENTS["weights"],
        # Results that must not be replaced by those of other weights.
        held=untracked([] if config["replace"] else held_results()),
    message:
        "Getting the {params.source} weights of {params.model}"
    script:
        "../workflow_scripts/fetch_weights.py"
