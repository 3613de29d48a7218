import logging
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# The library lies beside the rules, whatever folder the workflow runs in.
sys.path.insert(0, str(Path(str(workflow.current_basedir)).parent / "workflow_scripts"))

from spotesm.base.failures import ConfigError, InputError
from spotesm.base.logs import print_any_letter, printable
from spotesm.base.paths import RESULTS, DatasetPaths, weights_manifest
from spotesm.hdf5.format import refuse_foreign
from spotesm.machine.memory import memory_of_job
from spotesm.machine.nvidia import threads_of_job
from spotesm.request.config import (
    Dataset,
    check_config,
    checkpoint_thresholds,
    compression_filter,
    own_files,
    refuse_repeated_keys,
)
from spotesm.request.inputs import choose_shards, find_fasta, know_by_content
from spotesm.request.labels import read_labels
from spotesm.request.request import Request
from spotesm.request.reuse import find_reused
from spotesm.step import name_run
from spotesm.runs.explain import describe_results, explain_failures
from spotesm.weights.architectures import ARCHITECTURES

STARTED = time.time()
print_any_letter()

try:
    for path in workflow.configfiles:
        refuse_repeated_keys(Path(path))
    config.update(check_config(config))
    DATASETS = {name: Dataset.of_config(config, name) for name in config["datasets"]}
    FASTA = {name: find_fasta(dataset.fasta, name) for name, dataset in DATASETS.items()}
    OWN_FILES = own_files(config)
    REUSED = find_reused(config)
    for path in {path for paths in REUSED.values() for path in paths if Path(path).exists()}:
        refuse_foreign(Path(path))
    for path in OWN_FILES["labels"]:
        read_labels(Path(path))  # what is wrong with it is better known now
except (ConfigError, InputError) as error:
    raise WorkflowError(printable(str(error))) from None

SHARDS = config["shards"]
if SHARDS == "auto":
    SHARDS = choose_shards(FASTA, RESULTS)
WEIGHTS = str(
    weights_manifest(
        config["model"]["name"], config["model"]["weights"], config["model"]["adapter"]
    )
)
REQUEST = Request.of_config(config).as_param()
# Its name reaches later attempts and requeued jobs of the same run.
RUN = name_run(anew=workflow.is_main_process)


def proteins(dataset):
    """Return the protein files that are split into shards."""
    orfs = [f"results/{dataset}/orfs.fasta"]
    return orfs if DATASETS[dataset].is_nucleotide else by_content(FASTA[dataset])


def translated(dataset):
    """Return what lies beside the proteins that come from contigs: counts, rejected contigs."""
    files = ["contigs.json", "contigs-rejected.tsv"]
    return [f"results/{dataset}/{f}" for f in files if DATASETS[dataset].is_nucleotide]


def rejected_list(dataset):
    """Return where rejected records are listed, whichever step ends a run for them."""
    return f"results/{dataset}/rejected.tsv"


def by_content(paths):
    """Return input files whose dates Snakemake is not to look at: `content` tells changes."""
    return [ancient(path) for path in paths]


def content(paths):
    """Return a param that changes when the content of one of the files does."""
    try:
        return know_by_content(paths)
    except InputError as error:
        raise WorkflowError(printable(str(error))) from None


def reused_datasets(wildcards):
    """Return the results of other datasets of this run that a dataset takes from: they come first."""
    own = {str(DatasetPaths.of(dataset).embeddings) for dataset in DATASETS}
    return [ancient(path) for path in REUSED[wildcards.dataset] if path in own]


def checkpoint_directory(wildcards):
    """Return where a shard keeps its parts."""
    return str(Path(checkpoint_root(wildcards.dataset), wildcards.scatteritem))


def checkpoint_root(dataset):
    """Return where the shards of a dataset keep their parts."""
    return str(DatasetPaths.of(dataset).checkpoints_in(config["checkpoint"]["dir"]))


def untracked(value):
    """Wrap a param whose change must not recompute anything.

    Snakemake compares params between runs, but not those that are computed from resources.
    """

    def param(wildcards, resources):
        return value(wildcards) if callable(value) else value

    return param


def embed_threads(wildcards):
    """Return one thread a GPU job; all cores where the CPU computes, one shard after another."""
    try:
        return threads_of_job(workflow.cores)
    except WorkflowError:  # jobs go elsewhere, where the profile says how many they get
        return 1


def embed_memory(wildcards, attempt):
    """Return the MB that a shard's job needs, for schedulers that ask; more after a failure."""
    architecture = ARCHITECTURES[config["model"]["name"]]
    return memory_of_job(architecture, config["precision"]) * attempt


def with_results(record):
    """Say where the results are if nothing is to be done; `onsuccess` is not asked then."""
    if record.getMessage().startswith("Nothing to be done"):
        record.msg = "\n".join([record.getMessage(), *describe_results(DATASETS).splitlines()])
        record.args = None
    return True


def say_last(text, level=logging.INFO):
    """Say something in the end; by way of the logger, so that it follows what has been said."""
    if text:
        logger.log(level, text, extra={"last_words": True})


wildcard_constraints:
    dataset="|".join(DATASETS),


scattergather:
    shard=SHARDS,
