"""ESM-2 weights: find, download or make them, know them by their sha256, load them.

Whatever their source, weights are read by fair-esm's own loader from fair-esm's own file
format (`{"cfg": {"model": Namespace}, "model": state dict}`, `NAME-contact-regression.pt`
beside `NAME.pt`).
"""

import argparse
import hashlib
import logging
import urllib.error
from dataclasses import asdict, dataclass
from pathlib import Path

import esm.pretrained
import torch
from esm.model.esm2 import ESM2

from spotesm.durable import read_json, replacing, write_json
from spotesm.failures import WeightsError

log = logging.getLogger(__name__)

UNTRAINED, PRETRAINED = "untrained", "pretrained"
DOWNLOAD_URL = "https://dl.fbaipublicfiles.com/fair-esm/{folder}/{file}"
UNTRAINED_SEED = 2  # any fixed number: the same weights, and so the same sha256, everywhere


@dataclass(frozen=True)
class Architecture:
    """The shape of an ESM-2 model."""

    layers: int
    embedding_dim: int
    attention_heads: int


# Lin et al. 2023, Science 379:1123; the names are fair-esm's.
ARCHITECTURES = {
    "esm2_t6_8M_UR50D": Architecture(6, 320, 20),
    "esm2_t12_35M_UR50D": Architecture(12, 480, 20),
    "esm2_t30_150M_UR50D": Architecture(30, 640, 20),
    "esm2_t33_650M_UR50D": Architecture(33, 1280, 20),
    "esm2_t36_3B_UR50D": Architecture(36, 2560, 40),
    "esm2_t48_15B_UR50D": Architecture(48, 5120, 40),
}


@dataclass(frozen=True)
class Weights:
    """Which weights a run uses.

    Attributes:
        model: name of the architecture, a key of `ARCHITECTURES`.
        source: `untrained`, `pretrained`, or the path the config gives.
        path: the weights file; relative to the folder the workflow runs in, unless absolute.
        sha256: of the weights file, in hex.
    """

    model: str
    source: str
    path: str
    sha256: str

    @classmethod
    def read(cls, manifest: Path) -> "Weights":
        """Read the manifest that `fetch_weights` wrote."""
        return cls(**read_json(manifest))

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
            unless already there), or the path of a file in fair-esm's format.
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
    weights = Weights(model, source, str(path), sha256_of(path))
    write_json(manifest, asdict(weights))
    log.info("%s: %s, sha256 %s", model, path, weights.sha256)


def make_untrained(architecture: Architecture, path: Path) -> None:
    """Write an ESM-2 of seeded random numbers, and its contact regression, as fair-esm would.

    The same architecture gives the same bytes, and so the same sha256, on every machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        model = ESM2(architecture.layers, architecture.embedding_dim, architecture.attention_heads)
    state = model.state_dict()
    regression = {name: state.pop(name) for name in list(state) if "contact_head" in name}
    config = argparse.Namespace(
        encoder_layers=architecture.layers,
        encoder_embed_dim=architecture.embedding_dim,
        encoder_attention_heads=architecture.attention_heads,
        token_dropout=True,
    )
    trunk = {
        # fair-esm's files keep the language-model head outside the sentence encoder.
        f"encoder.{name}" if name.startswith("lm_head") else f"encoder.sentence_encoder.{name}": x
        for name, x in state.items()
    }
    _save(_regression_path(path), {"model": regression})
    _save(path, {"cfg": {"model": config}, "model": trunk})


def _save(path: Path, content: dict) -> None:
    # Through an open file: given a path, torch.save would put the temporary name into the bytes.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def _regression_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-contact-regression.pt")


def _download(model: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / f"{model}.pt"
    for name, file in (("regression", _regression_path(path)), ("models", path)):
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


def read_checkpoint(path: Path) -> dict:
    """Read a fair-esm file without unpickling anything but tensors and its Namespace.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    except Exception as error:  # on foreign bytes torch's reader raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: damaged, or not a fair-esm weights file ({reason})") from error


def load_model(path: Path, architecture: Architecture) -> ESM2:
    """Load an ESM-2 in fair-esm's format, in eval mode, float32, on the CPU.

    The contact regression is optional: it changes no embedding.

    Raises:
        WeightsError: the file is missing, damaged, or of another architecture.
    """
    checkpoint = read_checkpoint(path)
    found = _read_architecture(path, checkpoint)
    if found != architecture:
        raise WeightsError(f"{path}: holds {found}, but the config names {architecture}")
    regression = _regression_path(path)
    try:
        model, _ = esm.pretrained.load_model_and_alphabet_core(
            "esm2", checkpoint, read_checkpoint(regression) if regression.exists() else None
        )
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"{path}: {str(error).splitlines()[0]}") from error
    return model.eval()


def load_verified(weights: Weights) -> ESM2:
    """Load the weights of a manifest, if they are still the file that was fetched.

    Raises:
        WeightsError: the file is gone or has changed since.
    """
    path = Path(weights.path)
    if not path.exists() or sha256_of(path) != weights.sha256:
        raise WeightsError(
            f"{path}: gone or changed since fetch_weights read it; "
            "run again with --forcerun fetch_weights"
        )
    return load_model(path, weights.architecture)


def _read_architecture(path: Path, checkpoint: dict) -> Architecture:
    try:
        config = checkpoint["cfg"]["model"]
        return Architecture(
            config.encoder_layers, config.encoder_embed_dim, config.encoder_attention_heads
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not an ESM-2 file in fair-esm's format") from error
