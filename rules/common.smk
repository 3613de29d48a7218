import logging
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# The library lies beside the rules, whatever folder the workflow runs in.
sys.path.insert(0, str(Path(str(workflow.current_basedir)).parent / "workflow_scripts"))

from spotesm.base.failures import ConfigError, InputError, UserError
from spotesm.base.logs import print_any_letter, printable
from spotesm.base.paths import DatasetPaths, weights_manifest
from spotesm.hdf5.format import refuse_foreign
from spotesm.machine.memory import memory_of_job
from spotesm.machine.nvidia import threads_of_job
from spotesm.machine.packages import refuse_other_esm
from spotesm.request.config import (
    Dataset,
    check_config,
    checkpoint_thresholds,
    compression_filter,
    own_files,
    refuse_repeated_keys,
)
from spotesm.request.fasta_files import search
from spotesm.request.inputs import choose_split, know_by_content
from spotesm.request.labels import read_labels
from spotesm.request.request import Request
from spotesm.request.reuse import find_reused
from spotesm.step import KEEP_SHARDS, name_run, tell_jobs
from spotesm.runs.configs import check_configs
from spotesm.runs.environment import complete_environment
from spotesm.runs.explain import describe_results, explain_failures
from spotesm.runs.asked import ask, is_manifest_of
from spotesm.runs.identity import (
    DONE,
    TO_DO,
    check_unchanged,
    is_shard_of,
    is_split_of,
    judge_results,
    make_older,
    report_key,
    restore_earlier,
    write_mark,
)
from spotesm.runs.occupancy import occupy
from spotesm.runs.supervise import StopWithJobs
from spotesm.weights.architectures import ARCHITECTURES

STARTED = time.time()
LOCKS = ExitStack()  # held until this process ends
SIGNALS = StopWithJobs()
print_any_letter()
complete_environment(os.environ, Path())  # jobs inherit it

try:
    if not workflow.deployment_settings.deployment_method:  # jobs have Snakemake's own Python
        refuse_other_esm()
    for path in workflow.configfiles:
        refuse_repeated_keys(Path(path))
    config.update(check_config(config))
    DATASETS = {name: Dataset.of_config(config, name) for name in config["datasets"]}
    FOUND = {name: search(dataset.fasta, name) for name, dataset in DATASETS.items()}
    FASTA = {name: found.files for name, found in FOUND.items()}
    OWN_FILES = own_files(config)
    REUSED = find_reused(config)
    for path in {path for paths in REUSED.values() for path in paths if Path(path).exists()}:
        refuse_foreign(Path(path))
    for path in OWN_FILES["labels"]:
        read_labels(Path(path))  # what is wrong with it is better known now
    OWN_CONTENTS = {kind: know_by_content(files) for kind, files in OWN_FILES.items()}
    ASKED = ask(config, FASTA)
except UserError as error:
    raise WorkflowError(printable(str(error))) from None

# A number of its own for each dataset, by its size.
SPLITS = {
    name: choose_split(config["shards"], fasta, DatasetPaths.of(name))
    for name, fasta in FASTA.items()
}
WEIGHTS = str(
    weights_manifest(
        config["model"]["name"], config["model"]["weights"], config["model"]["adapter"]
    )
)
REQUEST = Request.of_config(config).as_param()
# Its name reaches later attempts and requeued jobs of the same run.
RUN = name_run(anew=workflow.is_main_process)
# Snakemake tells its jobs --notemp, whatever it was told itself.
KEEPS_SHARDS = config["keep_shards"] or tell_jobs(
    KEEP_SHARDS, workflow.is_main_process and workflow.storage_settings.notemp
)


def find_standings():
    """Return how the result of each dataset stands to what is asked; a job need not know.

    Raises:
        WorkflowError: one would lose something.
    """
    if not workflow.is_main_process:
        return {}
    try:
        check_configs(os.environ)
        standings = judge_results(ASKED, config["replace"])
    except UserError as error:
        raise WorkflowError(printable(str(error))) from None
    for dataset, standing in standings.items():
        if standing.why:
            logger.info(f"{dataset}: {'; '.join(standing.why)}")
    return standings


STANDINGS = find_standings()
MARK = write_mark(RUN) if workflow.is_main_process else None


def protein_files(dataset):
    """Return the protein files that are split into shards."""
    orfs = [f"results/{dataset}/orfs.fasta"]
    return orfs if DATASETS[dataset].is_nucleotide else FASTA[dataset]


def proteins(dataset):
    """Return those of them whose jobs, or dates, Snakemake looks at."""
    files = protein_files(dataset)
    return files if DATASETS[dataset].is_nucleotide else by_content(files)


def translated(dataset):
    """Return what lies beside the proteins that come from contigs: counts, rejected contigs."""
    files = ["contigs.json", "contigs-rejected.tsv"]
    return [f"results/{dataset}/{f}" for f in files if DATASETS[dataset].is_nucleotide]


def shard_names(dataset):
    """Return the names of a dataset's shards, such as 3-of-16."""
    shards = SPLITS[dataset].shards
    return [f"{number}-of-{shards}" for number in range(1, shards + 1)]


def same_split():
    """Return the datasets, those together that are split into as many shards."""
    numbers = dict.fromkeys(split.shards for split in SPLITS.values())
    return [[name for name in SPLITS if SPLITS[name].shards == number] for number in numbers]


def name_of_split(name, datasets):
    """Return what the step that splits some datasets is called: plainly if those are all."""
    return name if len(datasets) == len(SPLITS) else f"{name}_{SPLITS[datasets[0]].shards}"


def rejected_list(dataset):
    """Return where rejected records are listed, whichever step ends a run for them."""
    return f"results/{dataset}/rejected.tsv"


def by_content(paths):
    """Return input files whose dates Snakemake is not to look at: their content tells changes.

    After a job, it looks all the same, and lets it fail for an input that is newer than what the job
    made. Those dated in the future are left out here; scripts find all of them in a param.
    """
    return [ancient(path) for path in paths if newest_date(path) <= STARTED]


def newest_date(path):
    """Return the date of a file, or of the link to it, as Snakemake does."""
    return max(os.stat(path).st_mtime, os.lstat(path).st_mtime)


def of_result(name):
    """Return a file of the merge, as it lies there if the result is done.

    Snakemake would judge by dates and by what it remembers, and look for shards that are gone. A
    user who forces jobs decides alone.
    """

    def path(wildcards):
        file = f"results/{wildcards.dataset}/{name}"
        standing = STANDINGS.get(wildcards.dataset)
        dag = workflow.dag_settings
        is_forced = dag.forceall or dag.forcetargets or dag.forcerun
        is_done = standing is not None and standing.state == DONE and not is_forced
        return ancient(before_update(file)) if is_done else file

    return path


def held_results():
    """Return the merged files that are there and not done, which weights must not change."""
    return [
        str(DatasetPaths.of(name).embeddings)
        for name, standing in STANDINGS.items()
        if standing.state == TO_DO
    ]


def mark_stale(path, is_current):
    """Return an input that is newer than an output that is there, but is not what is asked.

    Snakemake would look at dates, and at params as far as it remembers them.

    Args:
        is_current: tells it of the file.
    """
    if not workflow.is_main_process or not Path(path).exists() or is_current(Path(path)):
        return []
    make_older(Path(path), MARK)
    return [str(MARK)]


def stale_split(wildcards, name):
    """Force a step that reads the input, if the counts that it left are of another one."""
    asked = ASKED[wildcards.dataset]
    return mark_stale(f"results/{wildcards.dataset}/{name}", lambda path: is_split_of(path, asked))


def stale_shard(wildcards):
    """Force a shard whose file was computed for something else."""
    path = f"results/{wildcards.dataset}/shards/{wildcards.scatteritem}.h5"
    return mark_stale(path, lambda path: is_shard_of(path, ASKED[wildcards.dataset]))


def stale_result(wildcards):
    """Force the merge of a result that lacks something of what is asked."""
    path = f"results/{wildcards.dataset}/embeddings.h5"
    return mark_stale(path, lambda path: STANDINGS[wildcards.dataset].state == DONE)


def earlier_result(wildcards):
    """Return a mark that the result which is replaced has a second name."""
    if not workflow.is_main_process or not DatasetPaths.of(wildcards.dataset).embeddings.exists():
        return []
    return [f".snakemake/spotesm/{RUN}/{wildcards.dataset}.kept"]


def stale_report(wildcards):
    """Force a report on another result, or with other labels."""
    embeddings = DatasetPaths.of(wildcards.dataset).embeddings
    key = report_key(embeddings, OWN_CONTENTS["labels"]) if embeddings.exists() else ""
    path = f"results/{wildcards.dataset}/report.html"
    return mark_stale(path, lambda path: key.encode() in path.read_bytes()[:4096])


def reused_datasets(wildcards):
    """Return the results of other datasets of this run that a dataset takes from: they come first."""
    own = {str(DatasetPaths.of(dataset).embeddings) for dataset in DATASETS}
    return [ancient(path) for path in REUSED[wildcards.dataset] if path in own]


def shard_file(path):
    """Return an output that Snakemake does not miss once it is merged."""
    return path if config["keep_shards"] else temp(path)


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


def begin_run():
    """Keep other runs away from the datasets, and let jobs save when this process is told to stop."""
    try:
        occupy(LOCKS, DATASETS)
        check_configs(os.environ)
        check_unchanged(STANDINGS)
    except UserError as error:
        raise WorkflowError(printable(str(error))) from None
    for dataset, asked in ASKED.items():
        asked.write(DatasetPaths.of(dataset).asked)
    SIGNALS.begin()


def end_broken_run():
    """Wait for what jobs still write, and give back the results that were to be replaced."""
    SIGNALS.wait()
    for dataset in DATASETS:
        restore_earlier(DatasetPaths.of(dataset))


def with_results(record):
    """Say where the results are if nothing is to be done; `onsuccess` is not asked then."""
    if record.getMessage().startswith("Nothing to be done"):
        record.msg = "\n".join([record.getMessage(), *describe_results(ASKED).splitlines()])
        record.args = None
    return True


def say_last(text, level=logging.INFO):
    """Say something in the end; by way of the logger, so that it follows what has been said."""
    if text:
        logger.log(level, text, extra={"last_words": True})


wildcard_constraints:
    dataset="|".join(DATASETS),
    scatteritem=r"\d+-of-\d+",
