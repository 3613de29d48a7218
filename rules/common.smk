import os
import shutil
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
    for dataset in config["datasets"]:
        for path in fasta_files(dataset):
            if not Path(path).is_file():
                raise WorkflowError(f"config: datasets: {dataset}: no such file: {path}")


def fasta_files(dataset):
    """Return the input files of a dataset."""
    paths = config["datasets"][dataset]
    return [paths] if isinstance(paths, str) else paths


def checkpoint_directory(wildcards):
    """Return where a shard keeps its parts."""
    root = config["checkpoint"]["dir"]
    folder = (
        Path(root, wildcards.dataset) if root else Path("results", wildcards.dataset, "checkpoints")
    )
    return str(folder / wildcards.scatteritem)


def checkpoint_thresholds():
    """Return when a part is written: the preset, overridden key by key."""
    settings = config["checkpoint"]
    preset = CHECKPOINT_PRESETS[settings["preset"]]
    return {key: settings.get(key, value) for key, value in preset.items()}


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


check_config()

WEIGHTS = weights_manifest()


wildcard_constraints:
    dataset="|".join(config["datasets"]),


scattergather:
    shard=config["shards"],
