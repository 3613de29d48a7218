"""The files of a model: which ones belong together, and what a file is by its first bytes."""

import json
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from spotesm.base.failures import WeightsError

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# Of a folder, the first that is there; transformers and peft look in the same order.
OF_MODEL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OF_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE = (CONFIG, "vocab.txt")
# Where the repositories of ESM C's first release have their one file, without settings.
FIRST_RELEASE = "data/weights/esmc_*.pth"


class Kind(Enum):
    """What holds tensors."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, or of one adapter.

    Attributes:
        tensors: those that hold tensors.
        others: those that say more of them: config, vocabulary, index, contact regression.
    """

    tensors: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every one."""
        return self.tensors + self.others

    @property
    def with_config(self) -> tuple[Path, ...]:
        """Those that say what the model computes."""
        return (*self.tensors, *(path for path in self.others if path.name == CONFIG))

    def other(self, name: str) -> Path | None:
        """Return the file of this name, if it is there."""
        return next((path for path in self.others if path.name == name), None)


def find_model(where: Path, with_adapter: bool = False) -> ModelFiles:
    """Return the files of a model that a user names by its file, folder or index.

    Args:
        with_adapter: whether an adapter is named as well.

    Raises:
        WeightsError: there is no such file, the folder holds no model, or an adapter beside it
            that would be left out.
    """
    if where.is_dir():
        adapted = (where / ADAPTER_CONFIG).is_file()
        if adapted and not (where / CONFIG).is_file():
            raise WeightsError(
                f"{where}: an adapter, not a model; give it as model: adapter, and the model that "
                "it was trained on as model: weights"
            )
        path = _first(where, OF_MODEL, FIRST_RELEASE)
        if adapted and not with_adapter:  # transformers would merge it
            raise WeightsError(
                f"{where}: holds an adapter beside the model; name the folder as model: adapter, "
                f"too, or {path.name} in it as model: weights to leave the adapter out"
            )
        if not (where / CONFIG).is_file() and path.parent == where:
            raise WeightsError(f"{where}: no {CONFIG} in it; or name the weights file itself")
    else:
        path = where
    if not path.is_file():
        raise WeightsError(f"no such file or folder: {path}")
    beside = tuple(f for name in BESIDE if (f := path.with_name(name)).is_file())
    if path.name.endswith(".index.json"):
        tensors, beside = _of_index(path), (*beside, path)
    else:
        tensors = (path,)
    if (regression := regression_path(tensors[0])).is_file():
        beside = (*beside, regression)
    return ModelFiles(tensors, beside)


def find_adapter(where: Path) -> ModelFiles:
    """Return the files of an adapter, in the folder that peft wrote.

    Raises:
        WeightsError: there is none.
    """
    folder = where if where.is_dir() else where.parent
    if not where.exists() or not (folder / ADAPTER_CONFIG).is_file():
        raise WeightsError(f"{where}: no adapter; it should be a folder with {ADAPTER_CONFIG}")
    return ModelFiles((_first(folder, OF_ADAPTER),), (folder / ADAPTER_CONFIG,))


def _first(folder: Path, names: tuple[str, ...], pattern: str = "") -> Path:
    """Return the first of the files that is there, or else the only one of a pattern."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = [path for path in folder.glob(pattern) if path.is_file()] if pattern else []
    if len(others) == 1:
        return others[0]
    held = sorted(path.name for path in folder.glob("*") if path.is_file())
    raise WeightsError(
        f"{folder}: holds none of {', '.join(names)}; it holds {', '.join(held[:8]) or 'no file'}"
    )


def _of_index(path: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(read_settings(path)["weight_map"].values()))
        files = tuple(path.with_name(Path(name).name) for name in names)
    except (KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: not an index of a model's files: no weight_map") from error
    if not files:
        raise WeightsError(f"{path}: its weight_map is empty")
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{path}: names {file.name}, which is not there")
    return files


def regression_path(path: Path) -> Path:
    """Return where the contact regression of a file belongs, which fair-esm keeps by itself."""
    return path.with_name(f"{path.stem}-contact-regression.pt")


def read_settings(path: Path) -> dict:
    """Read a JSON file of another program.

    Raises:
        WeightsError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: no JSON, or cut off ({error})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not the settings of a model")
    return content


def tell_kind(path: Path) -> Kind:
    """Tell by its first bytes what a file is.

    Raises:
        WeightsError: it cannot hold weights; says what it is and what to do.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"PK\x03\x04":
        if not zipfile.is_zipfile(path):
            raise WeightsError(f"{path}: its end is missing: half a download; fetch it again")
        return Kind.TORCH
    # Before pickles, as a length may begin with the bytes of one.
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length < 1 << 27:  # the library's own limit is 100 MB
        _check_length(path, size, length)
        return Kind.SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Kind.TORCH
    raise WeightsError(f"{path}: {_describe(head)}")


def _check_length(path: Path, size: int, length: int) -> None:
    with open(path, "rb") as file:
        header = file.read(8 + length)[8:]
    try:
        entries = json.loads(header) if len(header) == length else None
        ends = [e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise WeightsError(
            f"{path}: its header is damaged, or half a download; fetch it again"
        ) from None
    wanted = 8 + length + max(ends, default=0)
    if size < wanted:
        raise WeightsError(
            f"{path}: {size} of {wanted} bytes: half a download, or cut off; fetch it again"
        )


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "an empty file; fetch it again"
    if not head.strip(b"\0"):
        return "holds zeros: damaged, or half a download; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, not the weights; run `git lfs pull` where it lies"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<")):
        return (
            "a web page, not weights: the download was answered by an error or a login; open it "
            "to see which, and fetch it again"
        )
    if text.startswith((b"{", b"[")):
        return "a JSON file, not weights; name the folder that it lies in"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")):
        return "compressed; unpack it first"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it, and name the folder"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (of TensorFlow?), not weights that torch reads"
    if head.startswith(b"GGUF"):
        return "a GGUF file, which is quantised; take the safetensors of the same model"
    return "damaged, or no weights file: neither safetensors nor a file of torch"
