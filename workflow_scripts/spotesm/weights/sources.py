"""Which weights a run uses: find, download or make them, and know them by their sha256."""

import hashlib
import logging
import urllib.error
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from spotesm.base.durable import read_json, replacing, write_json
from spotesm.base.failures import WeightsError
from spotesm.base.paths import PRETRAINED, UNTRAINED
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.files import (
    FairESM,
    find_regression,
    load_model,
    make_untrained,
    read_checkpoint,
    regression_path,
)

log = logging.getLogger(__name__)

DOWNLOAD_URL = "https://dl.fbaipublicfiles.com/fair-esm/{folder}/{file}"


@dataclass(frozen=True)
class Weights:
    """Which weights a run uses.

    Attributes:
        model: name of the architecture, a key of `ARCHITECTURES`.
        source: `untrained`, `pretrained`, or the path the config gives.
        path: the weights file; relative to the folder the workflow runs in, unless absolute.
        sha256: of the weights file, in hex.
        regression_sha256: of the file that has the contact regression; empty if there is none.
    """

    model: str
    source: str
    path: str
    sha256: str
    regression_sha256: str

    @classmethod
    def read(cls, manifest: Path) -> "Weights":
        """Read the manifest that `fetch_weights` wrote.

        Raises:
            WeightsError: another version of spotESM wrote it.
        """
        try:
            return cls(**read_json(manifest))
        except TypeError as error:
            raise WeightsError(
                f"{manifest}: written by another version; run again with --forcerun fetch_weights"
            ) from error

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return ARCHITECTURES[self.model]

    @property
    def untrained(self) -> bool:
        """Whether the numbers are random."""
        return self.source == UNTRAINED


def fetch_weights(model: str, source: str, folder: Path, manifest: Path) -> None:
    """Make sure the weights of `model` are on disk and readable, and write their manifest.

    Args:
        source: `untrained` (made in `folder`), `pretrained` (downloaded to torch's hub folder
            unless already there), or the path of a file that `load_model` reads.
        manifest: JSON with the fields of `Weights`.

    Raises:
        WeightsError: the file cannot be had, cannot be read, or is another model.
    """
    if source == UNTRAINED:
        path = folder / f"{model}.pt"
        make_untrained(ARCHITECTURES[model], path)
        log.warning("these weights are random: the embeddings will mean nothing biologically")
    elif source == PRETRAINED:
        path = _download(model)
    else:
        path = Path(source)
    load_model(path, ARCHITECTURES[model])
    regression = find_regression(path)
    regression_sha256 = sha256_of(regression) if regression else ""
    weights = Weights(model, source, str(path), sha256_of(path), regression_sha256)
    write_json(manifest, asdict(weights))
    log.info("%s: %s, sha256 %s", model, path, weights.sha256)


def _download(model: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / f"{model}.pt"
    wanted = [("models", path)]
    if ARCHITECTURES[model].has_regression:
        wanted.insert(0, ("regression", regression_path(path)))
    for name, file in wanted:
        if not file.exists():
            _download_file(DOWNLOAD_URL.format(folder=name, file=file.name), file)
    return path


def _download_file(url: str, path: Path) -> None:
    log.info("downloading %s to %s", url, path)
    try:
        with replacing(path) as temporary:
            torch.hub.download_url_to_file(url, str(temporary), progress=False)
            read_checkpoint(temporary)  # a download that broke off does not load
    except (urllib.error.URLError, OSError, WeightsError) as error:
        raise WeightsError(
            f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}, "
            "or set model: weights: to the path of a copy"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_verified(weights: Weights) -> FairESM:
    """Load the weights of a manifest, if they are still the file that was fetched.

    Raises:
        WeightsError: the file is gone or has changed since.
    """
    path = Path(weights.path)
    regression = find_regression(path)
    if (
        not path.exists()
        or sha256_of(path) != weights.sha256
        or (sha256_of(regression) if regression else "") != weights.regression_sha256
    ):
        raise WeightsError(
            f"{path}: it, or its contact regression, is gone or has changed since fetch_weights; "
            "run again with --forcerun fetch_weights"
        )
    return load_model(path, weights.architecture)
