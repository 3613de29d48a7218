"""Which weights a run uses: what `fetch_weights` found, known by sha256."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from spotesm.base.durable import read_json, write_json
from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.files import CONFIG, regression_path
from spotesm.weights.sources import open_source
from spotesm.weights.tensors import Source
from spotesm.weights.untrained import RECIPE, untrained_source


@dataclass(frozen=True)
class Weights:
    """Which weights a run uses.

    Attributes:
        model: name of the architecture, a key of `ARCHITECTURES`.
        source: `untrained`, `pretrained`, `pretrained@COMMIT` of the hub, the path that the config
            gives, or `hf:OWNER/NAME@COMMIT`; where there is an adapter, ` + ADAPTER` behind it.
        path: file or folder of the model; relative to the folder the workflow runs in, unless
            absolute; empty if there is none.
        adapter: folder of the adapter; empty if there is none.
        files: sha256 of every file that is read, by path.
        sha256: of the weights: of their file, if there is but one, in hex.
        regression_sha256: of the file that has the contact regression; empty if there is none.
        has_logits: whether the head of masked language modelling is there.
        contents: `SIZE DIGEST` of the files that the config names.
    """

    model: str
    source: str
    path: str
    adapter: str
    files: dict[str, str]
    sha256: str
    regression_sha256: str
    has_logits: bool
    contents: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, manifest: Path) -> "Weights":
        """Read the manifest that `fetch_weights` wrote.

        Raises:
            WeightsError: it is none, it has changed since it was written, or another version of
                spotESM wrote it.
        """
        try:
            content = read_json(manifest)
            # Those of older versions have none.
            if (digest := content.pop("digest", None)) and digest != _digest_of(content):
                raise ValueError("it has changed")
            return cls(**content)
        except FileNotFoundError as error:
            raise WeightsError(f"{manifest}: no such manifest of weights") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{manifest}: no manifest of weights, changed since it was written, or another "
                "version wrote it; run again with --forcerun fetch_weights"
            ) from error

    def write(self, manifest: Path) -> None:
        """Write it down, with a digest of it: who reads it looks at few of the files."""
        content = asdict(self)
        write_json(manifest, {**content, "digest": _digest_of(content)})

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return ARCHITECTURES[self.model]

    @property
    def untrained(self) -> bool:
        """Whether the numbers are random."""
        return not self.path

    def check_has(self, logits: bool, contacts: bool) -> None:
        """Check that what outputs need is there.

        Raises:
            WeightsError: the head or the contact regression is missing, but wanted.
        """
        if logits and not self.has_logits:
            raise WeightsError(
                f"{self.path}: logits need the head of masked language modelling (lm_head), which "
                "it lacks; take logits out of outputs, or name a model that has it"
            )
        if contacts and not self.architecture.has_regression:
            raise WeightsError(
                f"{self.model}: contacts need a contact regression, which nobody trained for it; "
                "take contacts out of outputs"
            )
        if contacts and not self.regression_sha256:
            raise WeightsError(
                f"{self.path}: contacts need its contact regression; put fair-esm's at "
                f"{regression_path(Path(next(iter(self.files))))}, or take contacts out of outputs"
            )

    def open(self) -> Source:
        """Open the tensors, if their files are still what was fetched; reads all of them.

        Raises:
            WeightsError: a file is gone or has changed since.
        """
        for path, sha256 in self.files.items():
            if not Path(path).is_file() or sha256_of(Path(path)) != sha256:
                raise WeightsError(
                    f"{path}: it is gone, or has changed since fetch_weights; run again with "
                    "--forcerun fetch_weights"
                )
        source = open_named(self.model, self.path, self.adapter)
        if _sha256_of_all(self.model, self.path, source, self.files) != self.sha256:
            raise WeightsError(
                f"{self.source}: not the weights that fetch_weights wrote down; run again with "
                "--forcerun fetch_weights"
            )
        return source


def open_named(model: str, path: str, adapter: str) -> Source:
    """Open the tensors of a model; no path stands for untrained ones.

    Raises:
        WeightsError: as `open_source`, or it may not be read.
    """
    architecture = ARCHITECTURES[model]
    if not path:
        return untrained_source(architecture)
    try:
        return open_source(Path(path), architecture, Path(adapter) if adapter else None)
    except PermissionError as error:
        raise WeightsError(f"{error.filename or path}: {error.strerror}") from error


def know(model: str, named: str, path: str, adapter: str, source: Source) -> Weights:
    """Return what is to be known of weights; reads all of their files.

    Args:
        named: what the user calls them.
        source: opened from `path` and `adapter`.
    """
    files = {str(file): sha256_of(file) for file in source.files}
    sha256 = _sha256_of_all(model, path, source, files)
    beside = str(regression_path(source.files[0])) if path else ""
    regression = files.get(beside, sha256)
    return Weights(
        model,
        named,
        path,
        adapter,
        files,
        sha256,
        regression if source.has_contacts else "",
        source.has_logits,
    )


def _digest_of(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256_of_all(model: str, path: str, source: Source, files: Mapping[str, str]) -> str:
    """Return the sha256 of one file; of several, and what else was said, that of all of it."""
    beside = {CONFIG, regression_path(source.files[0]).name} if path else set()
    lines = sorted(f"{Path(f).name} {s}" for f, s in files.items() if Path(f).name not in beside)
    if not path:
        lines.append(f"{RECIPE}: {model}")
    if not source.token_dropout:
        lines.append("token_dropout false")
    if path and len(lines) == 1:
        return lines[0].rpartition(" ")[2]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
