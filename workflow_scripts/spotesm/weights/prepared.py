"""Weights prepared once for a precision: the packed engine's own tensors, mapped by every job.

    MODEL-KEY-DTYPE-L1/        made in a temporary folder, renamed whole
        ends.safetensors       embedding, final norm, heads, rotary frequencies: float32
        layer-00.safetensors   one a layer: products in the precision, norms in float32
        prepared.json          what it was made from; size, date and digests of each file

Jobs on one machine share the pages of these files in the system's cache.
"""

import hashlib
import logging
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spotesm.base.durable import follow_umask, publish, read_json, sync_directory, write_json
from spotesm.base.failures import NoLocksError
from spotesm.base.locks import hold_lock
from spotesm.weights.downloads import hub_folder
from spotesm.weights.layout import ENDS, LAYOUT, arrange
from spotesm.weights.manifest import Weights, sha256_of

log = logging.getLogger(__name__)

RECORD = "prepared.json"
SAMPLES = 4  # blocks of a file that a quick look compares, beside its size and header
SAMPLE_BYTES = 1 << 16
PINNED_BYTES = 64 << 20
READ_BYTES = 16 << 20
MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it


def default_folder() -> Path:
    """Return where prepared weights lie unless the config says: beside torch's downloads."""
    return hub_folder() / "spotesm"


def warn_unkept(folder: Path, error: OSError | NoLocksError) -> None:
    """Say that prepared weights cannot be kept."""
    log.warning(
        "prepared weights cannot be kept in %s (%s): made in memory, by each job anew; "
        "model: prepared names another folder",
        folder,
        getattr(error, "strerror", None) or error,
    )


@dataclass(frozen=True)
class Stamp:
    """What is known of a file.

    Attributes:
        size: bytes.
        mtime_ns: its date; a copy has another.
        quick: of size, header and some blocks, in hex.
        sha256: of all of it, in hex.
    """

    size: int
    mtime_ns: int
    quick: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Read all of a file."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, _look_quickly(path), sha256_of(path))


def _look_quickly(path: Path) -> str:
    """Return a digest of the header, with names, shapes and places, and of blocks in between."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        look = hashlib.blake2b(file.read(min(length, size)), digest_size=16)
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            look.update(file.read(SAMPLE_BYTES))
    return look.hexdigest()


@dataclass(frozen=True)
class Prepared:
    """The prepared weights of a model, in one precision.

    Attributes:
        weights: what they are made from.
        dtype: of the products.
        root: the folder in which all prepared weights lie.
    """

    weights: Weights
    dtype: torch.dtype
    root: Path

    @property
    def folder(self) -> Path:
        """Where they lie."""
        of = f"{self.weights.sha256} {self.weights.regression_sha256}"
        key = hashlib.sha256(of.encode()).hexdigest()[:12]
        return self.root / f"{self.weights.model}-{key}-{self._dtype_name}-L{LAYOUT}"

    def open(
        self, device: torch.device, check_stop: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Return all tensors; made first if they are not there, or not what was made.

        On a CPU they are the mapped files themselves; nothing is read yet. Another device gets
        them one by one.

        Args:
            check_stop: called now and then while another process makes them.

        Raises:
            WeightsError: they have to be made, and the source is not what was fetched.
            OSError, NoLocksError: they have to be made, and cannot be kept.
        """
        self.make(check_stop)
        groups = [ENDS, *_layer_names(self.weights.architecture.layers)]
        tensors: dict[str, Tensor] = {}
        move = _Mover(device) if device.type == "cuda" else None
        for group in groups:
            path = self.folder / f"{group}.safetensors"
            read_ahead(path)
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    tensor = file.get_tensor(name)
                    tensors[name] = move(tensor) if move else tensor
        if move:
            torch.cuda.synchronize(device)
        return tensors

    def make(self, check_stop: Callable[[], None] = lambda: None) -> None:
        """Make them, unless they are there and right.

        Args:
            check_stop: called now and then while another process makes them.

        Raises:
            WeightsError: the source is not what was fetched.
            OSError, NoLocksError: they cannot be kept.
        """
        try:
            with hold_lock(self._lock, "model: prepared", check_stop):
                if not self.is_right():
                    self._make()
        except (OSError, NoLocksError):
            if not self.is_right():  # they may be, where nobody may write
                raise

    def is_right(self, fully: bool = False) -> bool:
        """Whether they are there and as they were made.

        A file whose date is another is read whole; else its size, its header and some blocks
        tell. `fully` reads everything.
        """
        try:
            record = read_json(self.folder / RECORD)
            stamps = {name: Stamp(**facts) for name, facts in record.pop("files").items()}
        except FileNotFoundError:
            return False
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s: cannot be read (%s); made anew", self.folder / RECORD, error)
            return False
        wanted = {
            f"{group}.safetensors"
            for group in (ENDS, *_layer_names(self.weights.architecture.layers))
        }
        if record != self._facts() or stamps.keys() != wanted:
            log.warning("%s: is of another model, or of other weights; made anew", self.folder)
            return False
        renewed = {}
        for name, stamp in stamps.items():
            found = _compare(self.folder / name, stamp, fully)
            if found is None:
                log.warning("%s: has changed since it was made; made anew", self.folder / name)
                return False
            renewed[name] = found
        if renewed != stamps:  # touched or copied, and found whole
            with suppress(OSError):  # then they are read whole again next time
                self._write_record(self.folder, renewed)
        return True

    @property
    def _lock(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / f".{self.folder.name}.lock"

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _facts(self) -> dict:
        return {
            "layout": LAYOUT,
            "model": self.weights.model,
            "dtype": self._dtype_name,
            "source_sha256": self.weights.sha256,
            "regression_sha256": self.weights.regression_sha256,
        }

    def _make(self) -> None:
        """Make them layer by layer, in a folder that gets its name when it is whole."""
        self._remove_leftovers()
        source = self.weights.open()
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.root))
        try:
            follow_umask(temporary, 0o777)
            stamps = {}
            for group, tensors in arrange(source, self.dtype):
                path = temporary / f"{group}.safetensors"
                _save(tensors, path)
                stamps[path.name] = Stamp.of(path)
            self._write_record(temporary, stamps)
            if self.folder.exists():
                self.folder.rename(self._aside())
            temporary.rename(self.folder)
            sync_directory(self.root)
        finally:
            self._remove_leftovers()
        size = sum(stamp.size for stamp in stamps.values())
        log.info("prepared %s in %s: %d MB", self.weights.model, self.folder, size / 1e6)

    def _write_record(self, folder: Path, stamps: dict[str, Stamp]) -> None:
        files = {name: asdict(stamp) for name, stamp in stamps.items()}
        write_json(folder / RECORD, {**self._facts(), "files": files})

    def _aside(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.root)) / "old"

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left; who has it mapped keeps it."""
        for leftover in self.root.glob(f".{self.folder.name}.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)


def _layer_names(layers: int) -> list[str]:
    return [f"layer-{number:02d}" for number in range(layers)]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    except SafetensorError as error:  # so it says that the disk is full
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    follow_umask(part, 0o666)  # safetensors makes private files
    publish(part, path)


def _compare(path: Path, stamp: Stamp, fully: bool) -> Stamp | None:
    """Return the stamp that a file has now, if it is the file of that stamp."""
    if not path.is_file() or path.stat().st_size != stamp.size:
        return None
    if not fully and path.stat().st_mtime_ns == stamp.mtime_ns:
        return stamp if _look_quickly(path) == stamp.quick else None
    found = Stamp.of(path)
    return found if found.sha256 == stamp.sha256 else None


def read_ahead(path: Path) -> None:
    """Bring a file into the system's cache at once; page by page it would take far longer."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        try:
            pages.madvise(MADV_POPULATE_READ)
        except (OSError, AttributeError):
            buffer = bytearray(READ_BYTES)
            while file.readinto(buffer):
                pass


class _Mover:
    """Copies mapped tensors to a GPU through two buffers that it can read by itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.buffers = [
            torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)
        ]
        self.free = [torch.cuda.Event() for _ in range(2)]
        self.turn = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        target = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        given, taken = (x.view(-1).view(torch.uint8) for x in (tensor, target))
        for part, place in zip(given.split(PINNED_BYTES), taken.split(PINNED_BYTES), strict=True):
            buffer = self.buffers[self.turn][: len(part)]
            self.free[self.turn].synchronize()
            buffer.copy_(part)
            place.copy_(buffer, non_blocking=True)
            self.free[self.turn].record()
            self.turn ^= 1
        return target
