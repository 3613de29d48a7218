import os
import re
import shutil
import sys
import time
import uuid
from pathlib import Path

from jsonschema.exceptions import ValidationError, best_match
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

CHECKPOINT_PRESETS = {
    "default": {"sequences": 10_000, "seconds": 300, "bytes": 2**30},
    # Viral proteomes: many short proteins, so a part fills quickly and is cheap to write.
    "viral": {"sequences": 5_000, "seconds": 180, "bytes": 2**30},
}


def check_config():
    """Check the config against its schema, fill in defaults, and end with one line if it is wrong."""
    try:
        validate(config, "config.schema.yaml")
    except WorkflowError as error:
        cause = error.__context__
        if not isinstance(cause, ValidationError):
            raise
        cause = best_match([cause])
        key = ": ".join(str(step) for step in cause.absolute_path) or "top level"
        raise WorkflowError(f"config: {key}: {cause.message}") from None
    sizes = config["long_sequences"]
    if sizes["overlap"] >= sizes["window"]:
        raise WorkflowError(
            "config: long_sequences: overlap: must be smaller than window "
            f"({sizes['overlap']} is not smaller than {sizes['window']})"
        )
    if config["model"]["name"].startswith("esm1"):
        check_esm1()
    n_layers = int(re.search(r"_t(\d+)_", config["model"]["name"])[1])
    for layer in config["layers"]:
        if not -n_layers - 1 <= layer <= n_layers:
            raise WorkflowError(
                f"config: layers: {layer}: {config['model']['name']} has layers 0 to {n_layers}, "
                f"or counted from the end, -1 to {-n_layers - 1}"
            )
    for dataset in config["datasets"]:
        for path in fasta_files(dataset):
            if not Path(path).is_file():
                raise WorkflowError(f"config: datasets: {dataset}: no such file: {path}")


def check_esm1():
    """Check what an ESM-1 model cannot do: our own engine, and more than 1,024 tokens at once."""
    name, sizes = config["model"]["name"], config["long_sequences"]
    if config["model"]["engine"] != "reference":
        raise WorkflowError(f"config: model: engine: {name} needs `engine: reference`")
    if sizes["window"] > 1022 or sizes["policy"] == "whole":
        raise WorkflowError(
            f"config: long_sequences: {name} sees at most 1022 residues at once; "
            "set window to 1022 or less, and a policy other than whole"
        )


def fasta_files(dataset):
    """Return the input files of a dataset."""
    paths = config["datasets"][dataset]
    if isinstance(paths, dict):
        paths = paths["fasta"]
    return as_list(paths)


def as_list(paths):
    """Return one path or several as a list."""
    return [paths] if isinstance(paths, str) else paths


def is_nucleotide(dataset):
    """Return whether a dataset's input is contigs, to be translated first."""
    settings = config["datasets"][dataset]
    return isinstance(settings, dict) and settings.get("alphabet") == "nucleotide"


def proteins(dataset):
    """Return the protein files that are split into shards."""
    orfs = [f"results/{dataset}/orfs.fasta"]
    return orfs if is_nucleotide(dataset) else fasta_files(dataset)


def checkpoint_directory(wildcards):
    """Return where a shard keeps its parts."""
    return str(Path(checkpoint_root(wildcards.dataset), wildcards.scatteritem))


def checkpoint_root(dataset):
    """Return where the shards of a dataset keep their parts."""
    root = config["checkpoint"]["dir"]
    return str(Path(root, dataset) if root else Path("results", dataset, "checkpoints"))


def checkpoint_thresholds():
    """Return when a part is written: the preset, overridden key by key."""
    settings = config["checkpoint"]
    preset = CHECKPOINT_PRESETS[settings["preset"]]
    return {key: settings.get(key, value) for key, value in preset.items()}


def compression():
    """Return the HDF5 filter, as h5py calls it."""
    return None if config["compression"] == "none" else config["compression"]


def untracked(value):
    """Wrap a param whose change must not recompute anything.

    Snakemake compares params between runs, but not those that are computed from resources.
    """

    def param(wildcards, resources):
        return value(wildcards) if callable(value) else value

    return param


def restart_token():
    """Return the name of this run if it forces a restart, and nothing otherwise.

    The name reaches later attempts and requeued jobs of the same run, so that only the first
    attempt of each shard ignores the parts of earlier runs.
    """
    run = os.environ.setdefault("SPOTESM_RUN", uuid.uuid4().hex)
    return run if config["checkpoint"]["force_restart"] else ""


def embed_threads():
    """Return one thread a GPU job; all cores where the CPU computes, one shard after another."""
    if shutil.which("nvidia-smi"):
        return 1
    try:
        return workflow.cores
    except WorkflowError:  # jobs go elsewhere, where the profile says how many they get
        return 1


def weights_manifest():
    """Return the manifest of the weights; each source has its own, so that none replaces another."""
    model, source = config["model"]["name"], config["model"]["weights"]
    kind = source if source in ("untrained", "pretrained") else "custom"
    return f"resources/weights/{kind}/{model}.json"


def custom_weights():
    """Return the weights file that the config names, if any, so that a new one is noticed."""
    source = config["model"]["weights"]
    if source in ("untrained", "pretrained"):
        return []
    if not Path(source).is_file():
        raise WorkflowError(f"config: model: weights: no such file: {source}")
    return [source]


def describe_failures():
    """Return one block on what failed in this run; empty if no job of ours did."""
    sys.path.insert(0, str(Path(workflow.basedir, "workflow_scripts")))
    from spotesm.runs.explain import explain_failures

    checkpoints = config["checkpoint"]["dir"]
    return explain_failures(Path("results"), Path(checkpoints) if checkpoints else None, STARTED)


STARTED = time.time()


def report_labels():
    """Return the file with the labels of the report's map, if the config names one."""
    labels = config["report"]["labels"]
    if labels and not Path(labels).is_file():
        raise WorkflowError(f"config: report: labels: no such file: {labels}")
    return [labels] if labels else []


check_config()

WEIGHTS = weights_manifest()


wildcard_constraints:
    dataset="|".join(config["datasets"]),


scattergather:
    shard=config["shards"],
