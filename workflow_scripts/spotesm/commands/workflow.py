"""From FASTA and options to a config, and to the Snakemake line that runs the workflow by it."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import chdir
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import yaml

from spotesm.base.durable import replacing
from spotesm.base.failures import ConfigError, UserError
from spotesm.base.paths import REPOSITORY, SCHEMA, DatasetPaths, is_path_of_weights
from spotesm.request.config import (
    Dataset,
    check_config,
    check_name,
    dataset_name,
    expand_path,
    own_files,
    safe_name,
)
from spotesm.request.fasta_files import find_fasta, is_pipe, spool
from spotesm.request.reuse import find_result, find_reused
from spotesm.runs.asked import ask
from spotesm.runs.configs import note_configs
from spotesm.runs.environment import complete_environment, default_profile, describe_profiles
from spotesm.runs.identity import judge_results
from spotesm.runs.occupancy import wait_until_free
from spotesm.runs.supervise import supervise
from spotesm.sequences.sources import name_files
from spotesm.weights.architectures import ARCHITECTURES, PACKED

NOT_KEPT = Path(".snakemake/spotesm-config.yaml")  # the config of what leaves nothing behind
HEADER = """\
# Written by `spotesm embed`; every other key has its default. To edit it and run it again, from the
# folder that results lies in: snakemake --configfile THIS_FILE, with the other options as before.
"""
SETTINGS = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["properties"]
DEFAULT_MODEL = SETTINGS["model"]["properties"]["name"]["default"]


class WithSnakemakeArguments(click.Command):
    """A command that passes on, as `snakemake`, what follows `--`."""

    def collect_usage_pieces(self, context: click.Context) -> list[str]:
        """Name them in the line of usage."""
        return [*super().collect_usage_pieces(context), "[-- SNAKEMAKE ARGUMENTS]"]

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Set them apart."""
        own, theirs = arguments, []
        if "--" in arguments:
            place = arguments.index("--")
            own, theirs = arguments[:place], arguments[place + 1 :]
        rest = super().parse_args(context, own)
        context.params["snakemake"] = tuple(theirs)
        return rest


def _split(_: click.Context, parameter: click.Parameter, text: str | None) -> list | None:
    """Take a list that is written with commas."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if parameter.name == "outputs":
        return words
    try:
        return list(map(int, words))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: give numbers, such as 0,33 or -1") from error


INPUT_OPTIONS = (
    click.option("--name", help="The dataset's name; that of the file if left out."),
    click.option("--each", is_flag=True, help="Make a dataset of each FASTA, named like its file."),
    click.option(
        "--nucleotide",
        is_flag=True,
        help="Contigs or reads: embed the proteins of their six frames.",
    ),
    click.option(
        "--model",
        metavar="NAME",
        help="esm2_t6_8M_UR50D to esm2_t48_15B_UR50D, esmc_300m, esmc_600m, esmc_6b, ESM-1b or "
        f"ESM-1v; {DEFAULT_MODEL} if left out.",
    ),
    click.option(
        "--weights",
        metavar="PATH",
        help="pretrained (downloaded once; if left out), untrained (random, to try it offline), "
        "hf:OWNER/NAME, or a file or folder of your own.",
    ),
    click.option(
        "--outputs",
        metavar="LIST",
        callback=_split,
        help="Of mean (if left out), bos, residues, logits, contacts, such as mean,residues.",
    ),
    click.option(
        "--layers",
        metavar="LIST",
        callback=_split,
        help="Of which layers, such as 0,33; -1, the last, if left out.",
    ),
    click.option(
        "--reuse",
        metavar="PATH",
        multiple=True,
        help="An earlier embeddings.h5, or the name of a dataset in results: what it has is not "
        "computed again. May be given again.",
    ),
)
DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where results, checkpoints and weights go; the current folder if left out.",
)


def takes_input(command: Callable) -> Callable:
    """Give a command the options that say what is computed, and where."""
    for option in reversed((*INPUT_OPTIONS, DIRECTORY)):
        command = option(command)
    return command


# -- the config ------------------------------------------------------------------------------------


def make_configs(
    fasta: Sequence[str],
    directory: Path,
    name: str | None = None,
    each: bool = False,
    nucleotide: bool = False,
    weights: str | None = None,
    reuse: Sequence[str] = (),
    replace: bool = False,
    **asked: object,
) -> dict[str, dict]:
    """Return the config of each dataset, checked, with what was given and nothing else.

    Paths are relative to `directory` where they lie below it, else absolute.

    Args:
        reuse: earlier merged files, or names of datasets: of these, or with results in `directory`.
        asked: model, outputs and layers; None for what was not given.

    Raises:
        UserError: something given is wrong.
    """
    configs, checked = {}, {}
    datasets = _datasets(_take_pipes(fasta, directory, name, each), name, each)
    for dataset, files in datasets.items():

        def config_with(
            place: Callable[[str], str], dataset: str = dataset, files: list[str] = files
        ) -> dict:
            own = place(weights) if weights and is_path_of_weights(weights) else weights
            paths = [place(file) for file in files]
            earlier = [
                name if name in datasets else place(_find_earlier(name, directory))
                for name in reuse
            ]
            return _make_config(
                dataset, paths, nucleotide, weights=own, reuse=earlier, replace=replace, **asked
            )

        checked[dataset] = check_config(config_with(_absolute))
        find_fasta(Dataset.of_config(checked[dataset], dataset).fasta, dataset)
        own_files(checked[dataset])
        configs[dataset] = config_with(lambda path: _seen_from(directory, path))
    find_reused(merge_configs(checked.values()))
    return configs


def merge_configs(configs: Iterable[Mapping]) -> dict:
    """Return one config for datasets whose other settings are the same."""
    merged: dict = {"datasets": {}}
    for config in configs:
        merged = {**config, "datasets": {**merged["datasets"], **config["datasets"]}}
    return merged


def _take_pipes(fasta: Sequence[str], directory: Path, name: str | None, each: bool) -> list[str]:
    """Write what comes through pipes to files among the results of the dataset."""
    pipes = list(filter(is_pipe, fasta))
    if pipes and (each or not name):
        raise click.UsageError(f"{pipes[0]}: a pipe has no name; give the dataset one by --name.")
    if len(set(pipes)) < len(pipes):
        raise click.UsageError("A pipe can be read but once; name it once.")
    taken = []
    for path in fasta:
        if path in pipes:
            path = str(spool(path, directory / DatasetPaths.of(check_name(name)).folder))
            click.echo(f"what came through the pipe is kept as {path}", err=True)
        taken.append(path)
    return taken


def _datasets(fasta: Sequence[str], name: str | None, each: bool) -> dict[str, list[str]]:
    """Return the FASTA files of each dataset."""
    if not each:
        if len(fasta) > 1 and not name:
            raise click.UsageError(
                "Several FASTA: --name makes one dataset of them, --each a dataset of each."
            )
        return {name or dataset_name(fasta[0]): list(fasta)}
    if name:
        raise click.UsageError("--each names the datasets like their files; leave out --name.")
    datasets: dict[str, list[str]] = {}
    files = find_fasta(fasta, "--each")
    for file, dataset in zip(files, map(safe_name, name_files(files)), strict=True):
        (other,) = datasets.setdefault(dataset, [file])
        if other != file:
            raise ConfigError(
                f"{other} and {file} would both be the dataset {dataset}; rename "
                "one, or embed it alone with --name"
            )
    return datasets


def _find_earlier(name: str, directory: Path) -> str:
    """Return the result of a dataset of that name; a path as it is."""
    return name if Path(name).exists() else find_result(name, directory) or name


def _make_config(
    dataset: str,
    paths: list[str],
    nucleotide: bool,
    model: str | None,
    weights: str | None,
    outputs: list[str] | None,
    layers: list[int] | None,
    reuse: list[str],
    replace: bool,
) -> dict:
    fasta: object = paths if len(paths) > 1 else paths[0]
    config: dict = {
        "datasets": {dataset: {"fasta": fasta, "alphabet": "nucleotide"} if nucleotide else fasta}
    }
    engine = _engine_of(model) if model in ARCHITECTURES else None
    of_model = {"name": model, "weights": weights, "engine": engine}
    if of_model := {key: value for key, value in of_model.items() if value}:
        config["model"] = of_model
    others = {"outputs": outputs, "layers": layers, "reuse": reuse, "replace": replace}
    return config | {key: value for key, value in others.items() if value}


def _engine_of(model: str) -> str | None:
    """Return the engine that a model needs, if it is not the usual one."""
    usual, *_ = ARCHITECTURES[model].traits.engines
    return None if usual == PACKED else usual


def _absolute(path: str) -> str:
    return os.path.abspath(expand_path(path, path))


def _seen_from(directory: Path, path: str) -> str:
    """Return a path as the workflow that runs in `directory` is to see it."""
    absolute = _absolute(path)
    below = os.path.relpath(absolute, os.path.abspath(directory))
    return absolute if below.startswith(("..", "~")) else below


def keep_config(config: Mapping, dataset: str, directory: Path) -> Path:
    """Write a dataset's config to `results/NAME/config.yaml`; another one is kept beside it."""
    path = directory / DatasetPaths.of(dataset).folder / "config.yaml"
    if path.exists():
        if _same_config(path, config):
            return path
        kept = next(
            other
            for number in range(1, sys.maxsize)
            if not (other := path.with_name(f"config.{number}.yaml")).exists()
        )
        os.rename(path, kept)
        click.echo(f"{path} says something else; it is kept as {kept}", err=True)
    write_config(config, path)
    return path


def pass_config(configs: Iterable[Mapping], directory: Path) -> Path:
    """Write one config for datasets of what leaves nothing behind; where it is."""
    path = directory / NOT_KEPT
    write_config(merge_configs(configs), path)
    return path


def write_config(config: Mapping, path: Path) -> None:
    """Write a config, durably."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    with replacing(path) as temporary:
        temporary.write_text(f"{HEADER}{text}", encoding="utf-8")


def _same_config(path: Path, config: Mapping) -> bool:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) == config
    except (yaml.YAMLError, UnicodeDecodeError):
        return False


def check_results(configs: Mapping[str, Mapping], directory: Path, wait: bool) -> None:
    """Check, before anything is written, that no other run is at work, and no result would be lost.

    Args:
        wait: for a run that is about to end.

    Raises:
        UserError: there is one, or one would.
    """
    if not directory.is_dir():
        return
    with chdir(directory):
        there = [name for name in configs if DatasetPaths.of(name).folder.is_dir()]
        if wait:
            wait_until_free(there, partial(click.echo, err=True))
        config = check_config(merge_configs(configs.values()))
        fasta = {name: find_fasta(Dataset.of_config(config, name).fasta, name) for name in there}
        judge_results(ask(config, fasta), config["replace"])


# -- the line --------------------------------------------------------------------------------------


def snakemake_line(
    configs: Sequence[Path], directory: Path, options: Sequence[str], quiet: bool
) -> list[str]:
    """Return the command that runs the workflow; targets may follow it."""
    # Without -P, it would look for modules in the folder that the user is in before all others.
    # Datasets have locks of ours; Snakemake's own are by folder, and outlive their process.
    line = [sys.executable, "-P", "-m", "snakemake", "--nolock"]
    if configs:
        line += ["--configfile", *map(str, configs)]
    if quiet:
        line += ["--logger", "spotesm"]
    if directory != Path():
        line += ["--directory", str(directory)]
    line += default_profile(options)
    return [*line, *options, "--snakefile", str(REPOSITORY / "Snakefile")]


def find_profile(name: str) -> list[str]:
    """Return the option for a profile: one of the repository's by name, or a folder.

    Raises:
        UserError: there is no such profile, or what it needs is not installed.
    """
    known = sorted(path.parent.name for path in REPOSITORY.glob("profiles/*/config.yaml"))
    folder = REPOSITORY / "profiles" / name if name in known else Path(name)
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(
            f"--profile {name}: there is none of that name ({', '.join(known)}), and no {config}"
        )
    executor = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("executor", "local")
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor != "local" and not find_spec(plugin):
        needs = folder / "requirements.txt"
        what = f"-r {needs}" if needs.exists() else plugin.replace("_", "-")
        raise UserError(
            f"--profile {name}: jobs go by {executor}, whose plugin is missing; install it: "
            f"{sys.executable} -m pip install {what}"
        )
    return ["--workflow-profile", str(folder.resolve())]


def run(line: Sequence[str], directory: Path, configs: Sequence[Path]) -> None:
    """Say the command, run it, and leave as it does.

    Args:
        directory: of the run.
        configs: which it names.
    """
    environment = dict(os.environ)
    note_configs(environment, configs)
    said = complete_environment(environment, directory)
    for text in (*said, *describe_profiles(environment, line), shlex.join(line)):
        click.echo(text, err=True)
    sys.exit(supervise(line, environment))
