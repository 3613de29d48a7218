"""The config: read strictly, checked against its schema and against itself, defaults filled in."""

import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from Bio.Data.CodonTable import unambiguous_dna_by_id

from spotesm.base.failures import ConfigError, WeightsError
from spotesm.base.paths import UNTRAINED, is_path_of_weights
from spotesm.request.outputs import CONTACTS, OUTPUTS
from spotesm.request.request import Request
from spotesm.request.schema import check_schema
from spotesm.sequences.long_sequences import WHOLE, LongSequences
from spotesm.sequences.sources import stem_of
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.files import find_adapter, find_model, tell_kind

# A part is written when the first of these is reached; each can be overridden.
CHECKPOINT_PRESETS = {
    "default": {"sequences": 10_000, "seconds": 300, "bytes": 2**30},
    # Viral proteomes: many short proteins, so a part fills quickly and is cheap to write.
    "viral": {"sequences": 5_000, "seconds": 180, "bytes": 2**30},
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


# -- reading ---------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML forbids and its readers let pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[object] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # `<<: *base`, whose keys yield to others
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{self.name}, line {line}: {name!r} is given twice; keep one")
            seen.add(name)
        return super().construct_mapping(node, deep)


def refuse_repeated_keys(path: Path) -> None:
    """Check that no key of a config file, at any depth, is given twice.

    Raises:
        ConfigError: one is; names file and line.
    """
    with open(path, encoding="utf-8") as file:
        yaml.load(file, _StrictLoader)


# -- checking --------------------------------------------------------------------------------------


def check_config(given: Mapping) -> dict:
    """Return the config with its paths expanded and its defaults filled in.

    Raises:
        ConfigError: something in it is wrong, or has no effect; names the key.
    """
    config = deepcopy(dict(given))
    _take_shorthands(config)
    _expand_paths(config)
    asked = deepcopy(config)
    check_schema(config)
    _choose_window(config)
    request = Request.of_config(config)
    _check_datasets(config["datasets"])
    _check_model(request)
    _check_windows(request)
    _check_layers(request)
    _check_adapter(config["model"])
    _refuse_what_has_no_effect(asked, config)
    return config


def _take_shorthands(config: dict) -> None:
    """Take one value for a list of one, one path for a dataset of that name, 9606 for a name."""
    if not config.get("datasets"):
        raise ConfigError(
            "config: datasets: is missing; name your FASTA in a config (datasets: my.fasta) and "
            "give it by --configfile, or by --config datasets=my.fasta"
        )
    datasets = config["datasets"]
    if isinstance(datasets, str):
        datasets = {dataset_name(datasets): datasets}
    if isinstance(datasets, dict):
        config["datasets"] = {}
        for given, paths in datasets.items():
            name = check_name(given)
            if name in config["datasets"]:
                raise ConfigError(
                    f"config: datasets: {name} is there twice, as a number and as text; both would "
                    "be one folder of results; rename one"
                )
            config["datasets"][name] = paths
    for key in ("outputs", "layers", "reuse"):
        if isinstance(config.get(key), str | int) and not isinstance(config[key], bool):
            config[key] = [config[key]]


def dataset_name(path: str) -> str:
    """Return the name of the dataset of a FASTA that was given none: its stem, in safe letters."""
    return safe_name(stem_of(path))


def safe_name(name: str) -> str:
    """Return a name in the letters that those of datasets have; may be empty."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def check_name(name: object) -> str:
    """Return the name of a dataset.

    Raises:
        ConfigError: it cannot be one.
    """
    if isinstance(name, int) and not isinstance(name, bool):  # such as a taxon's number
        return str(name)
    if not isinstance(name, str):
        raise ConfigError(
            f"config: datasets: YAML reads one of the names as {name!r}; put it in quotes"
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"config: datasets: {name!r} cannot be a name: use letters, digits, _ and -, and begin "
            "with a letter or a digit"
        )
    return name


def _expand_paths(config: dict) -> None:
    """Replace `~` and `$VARIABLE` in every path."""
    datasets = config["datasets"]
    if isinstance(datasets, dict):
        for name, value in datasets.items():
            where = f"datasets: {name}"
            if isinstance(value, dict):
                if "fasta" in value:
                    value["fasta"] = _expand_all(value["fasta"], where)
            else:
                datasets[name] = _expand_all(value, where)
    config["reuse"] = _expand_all(config.get("reuse", []), "reuse")
    for group, key in (
        ("model", "weights"),
        ("model", "adapter"),
        ("model", "prepared"),
        ("report", "labels"),
        ("checkpoint", "dir"),
    ):
        if isinstance(config.get(group), dict) and isinstance(config[group].get(key), str):
            config[group][key] = expand_path(config[group][key], f"{group}: {key}")


def _expand_all(paths: object, where: str) -> object:
    if isinstance(paths, str):
        return expand_path(paths, where)
    if isinstance(paths, list):
        return [expand_path(path, where) if isinstance(path, str) else path for path in paths]
    return paths


def expand_path(path: str, where: str) -> str:
    """Replace `~` and `$VARIABLE`.

    Raises:
        ConfigError: there is no such variable or user, or Snakemake would misread the path.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset:
        raise ConfigError(f"config: {where}: {path}: {unset[0]} is not set in the environment")
    if expanded.startswith("~"):
        raise ConfigError(
            f"config: {where}: {path}: there is no such user; begin with ./ if it is a file"
        )
    if set(expanded) & set("{}\n"):
        raise ConfigError(
            f"config: {where}: {path!r}: Snakemake takes braces and line ends in a path for "
            "its own; rename it, or make a link to it"
        )
    return expanded


def _check_datasets(datasets: dict) -> None:
    folded: dict[str, str] = {}
    for name, settings in datasets.items():
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise ConfigError(
                f"config: datasets: {other} and {name} would share a folder where file names do "
                "not tell upper from lower case; rename one"
            )
        if not isinstance(settings, dict):
            continue
        if settings.get("alphabet") != "nucleotide":
            for key in settings.keys() & {"genetic_code", "min_orf"}:
                raise ConfigError(
                    f"config: datasets: {name}: {key}: has no effect on proteins; remove it, or "
                    "say alphabet: nucleotide"
                )
        code = settings.get("genetic_code", 1)
        if code not in unambiguous_dna_by_id:
            known = ", ".join(map(str, sorted(unambiguous_dna_by_id)))
            raise ConfigError(
                f"config: datasets: {name}: genetic_code: {code}: NCBI's numbers are {known}"
            )


def _check_adapter(model: Mapping) -> None:
    if model["adapter"] and model["weights"] == UNTRAINED:
        raise ConfigError(
            "config: model: adapter: was trained on other weights than untrained ones; name its "
            "base as model: weights"
        )


def _choose_window(config: dict) -> None:
    """Put the residues in place of `auto`: what the model was trained on."""
    long = config["long_sequences"]
    if long["window"] == "auto":
        long["window"] = ARCHITECTURES[config["model"]["name"]].traits.window


def _check_windows(request: Request) -> None:
    long = request.long_sequences
    if long.cuts and long.overlap >= long.window:
        raise ConfigError(
            "config: long_sequences: overlap: must be smaller than window "
            f"({long.overlap} is not smaller than {long.window})"
        )
    family = request.architecture.traits
    if family.learned_positions and (long.window > family.window or long.policy == WHOLE):
        raise ConfigError(
            f"config: long_sequences: {request.model} sees at most {family.window} residues at "
            f"once; set window to {family.window} or less, and a policy other than whole"
        )


def _check_model(request: Request) -> None:
    engines = request.architecture.traits.engines
    if request.engine not in engines:
        raise ConfigError(f"config: model: engine: {request.model} needs `engine: {engines[0]}`")
    if CONTACTS in request.outputs and not request.architecture.has_regression:
        raise ConfigError(
            f"config: outputs: contacts: {request.model} has no contact regression, nobody trained "
            "one; take contacts out of outputs"
        )


def _check_layers(request: Request) -> None:
    n_layers = request.architecture.layers
    for layer in request.layers:
        if not -n_layers - 1 <= layer <= n_layers:
            raise ConfigError(
                f"config: layers: {layer}: {request.model} has layers 0 to {n_layers}, "
                f"or counted from the end, -1 to {-n_layers - 1}"
            )


def _off(config: dict) -> bool:
    return not config["checkpoint"]["enabled"]


# Keys that can be without effect: when, and beside what. Named only where the user gave them.
_WITHOUT_EFFECT: tuple[tuple[tuple[str, ...], Callable[[dict], bool], str], ...] = (
    (
        ("long_sequences", "overlap"),
        lambda c: not LongSequences(**c["long_sequences"]).cuts,
        "this policy",
    ),
    (
        ("long_sequences", "window"),
        lambda c: c["long_sequences"]["policy"] == WHOLE,
        "policy: whole",
    ),
    (
        ("layers",),
        lambda c: not any(OUTPUTS[name].per_layer for name in c["outputs"]),
        "outputs that have no layers",
    ),
    *(
        (("checkpoint", key), _off, "enabled: false")
        for key in ("preset", "sequences", "seconds", "bytes", "keep_parts", "force_restart")
    ),
)


def _refuse_what_has_no_effect(asked: dict, config: dict) -> None:
    """Refuse keys that the user gave and that change nothing beside the others."""
    for path, is_idle, beside in _WITHOUT_EFFECT:
        given = asked
        for step in path:
            given = given.get(step) if isinstance(given, dict) else None
        if given is not None and is_idle(config):
            raise ConfigError(f"config: {': '.join(path)}: has no effect with {beside}; remove it")


# -- asking ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """What the config says of one dataset.

    Attributes:
        fasta: files, folders and patterns, as given.
        alphabet: `protein` or `nucleotide`; None where the config does not say.
        genetic_code: NCBI's number, of nucleotide input.
        min_orf: residues between two stops, of nucleotide input.
    """

    fasta: tuple[str, ...]
    alphabet: str | None = None
    genetic_code: int = 1
    min_orf: int = 30

    @classmethod
    def of_config(cls, config: Mapping, name: str) -> "Dataset":
        """Take it from a checked config."""
        settings = config["datasets"][name]
        if not isinstance(settings, dict):
            settings = {"fasta": settings}
        fasta = settings["fasta"]
        return cls(**{**settings, "fasta": (fasta,) if isinstance(fasta, str) else tuple(fasta)})

    @property
    def is_nucleotide(self) -> bool:
        """Whether it is translated first."""
        return self.alphabet == "nucleotide"

    @property
    def reading(self) -> dict:
        """How the input is read, as results say it."""
        if not self.is_nucleotide:
            return {"alphabet": "protein"}
        return {
            "alphabet": "nucleotide",
            "genetic_code": self.genetic_code,
            "min_orf": self.min_orf,
        }


def checkpoint_thresholds(config: Mapping) -> dict:
    """Return when a part is written: the preset, overridden key by key."""
    settings = config["checkpoint"]
    preset = CHECKPOINT_PRESETS[settings["preset"]]
    return {key: settings.get(key, value) for key, value in preset.items()}


def compression_filter(config: Mapping) -> str | None:
    """Return the HDF5 filter, as h5py calls it."""
    return None if config["compression"] == "none" else config["compression"]


def own_files(config: Mapping) -> dict[str, list[str]]:
    """Return the files of the user's own that are no FASTA: weights and labels.

    Raises:
        ConfigError: one is not there, or no weights file.
    """
    labels = config["report"]["labels"]
    if labels and not Path(labels).is_file():
        raise ConfigError(f"config: report: labels: no such file: {labels}")
    weights: list[Path] = []
    find_base = partial(find_model, with_adapter=bool(config["model"]["adapter"]))
    for key, find in (("weights", find_base), ("adapter", find_adapter)):
        named = config["model"][key]
        if not named or not is_path_of_weights(named):
            continue
        try:
            files = find(Path(named))
            for path in files.tensors:
                tell_kind(path)
        except WeightsError as error:
            raise ConfigError(f"config: model: {key}: {error}") from error
        except PermissionError as error:
            raise ConfigError(
                f"config: model: {key}: {error.filename or named}: {error.strerror}"
            ) from error
        weights += files.all
    return {"weights": list(map(str, weights)), "labels": [labels] if labels else []}
