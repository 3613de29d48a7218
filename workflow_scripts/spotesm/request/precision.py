"""What `precision: auto` is for a dataset: decided by the first job that has a device."""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spotesm.base.durable import make_directory, read_json, write_json
from spotesm.base.failures import DeviceError
from spotesm.base.locks import try_lock
from spotesm.base.paths import DatasetPaths
from spotesm.base.state import read_state
from spotesm.machine.nvidia import ON_CPU
from spotesm.sequences.reasons import Device

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16")
LOCK_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Agreement:
    """Where the jobs of a dataset agree on a precision.

    Attributes:
        dataset: whose `precision.json` it is.
        checkpoints: the folder with the checkpoints of all its shards.
        run: the name of this run of Snakemake.
        restart: whether what earlier runs left does not count.
    """

    dataset: DatasetPaths
    checkpoints: Path
    run: str
    restart: bool = False

    def join(self, own: Device, find_past: Callable[[], str | None]) -> str:
        """Return the precision of the dataset, which is this device's own if none is decided yet.

        Args:
            own: the device of this job, with what `auto` would be on it alone.
            find_past: returns what `auto` was for the dataset's merged file, if there is one.

        Raises:
            DeviceError: it is one that this device cannot have.
        """
        make_directory(self.checkpoints)
        lock = self.checkpoints / "precision.lock"
        with try_lock(lock, "checkpoint: dir", LOCK_WAIT_SECONDS) as free:
            if not free:
                raise DeviceError(f"{lock}: is held by another process; end it and run again")
            note = self._decide(own, find_past)
        agreed, host = note["precision"], socket.gethostname()
        if agreed == own.precision:
            return agreed
        decided = f"precision: auto is {agreed} for {self.dataset.name}, as {note['decided_by']}"
        if own.precision == ON_CPU:
            raise DeviceError(
                f"{decided} has it, but {host} computes on a {own.name}, in {own.precision}: mend "
                f"{host}, whose GPU is not found, or set precision: {own.precision}, with which "
                "everything is computed anew"
            )
        log.warning(
            "%s has it; on %s (%s) alone it would be %s. Set precision: %s to have that, with "
            "which everything is computed anew",
            *(decided, host, own.name, own.precision, own.precision),
        )
        return agreed

    def _decide(self, own: Device, find_past: Callable[[], str | None]) -> dict:
        """Return what is written down, or write it."""
        path = self.dataset.precision
        note = read_state(path, _is_note, "it is decided anew")
        stale = note is None or note["run"] != self.run
        if note and not (stale and (self.restart or not self._has_results())):
            return note
        precision, by = own.precision, f"{socket.gethostname()} ({own.name})"
        if not (note or self.restart) and (past := find_past()):
            precision, by = past, str(self.dataset.embeddings)
        note = {"precision": precision, "decided_by": by, "run": self.run}
        write_json(path, note)
        return note

    def _has_results(self) -> bool:
        """Whether earlier runs left anything that was computed."""
        shards, parts = self.dataset.folder / "shards", self.checkpoints
        left = (shards.glob("*.h5"), parts.glob("*/part-*.pt"), parts.glob("*/finished.*.h5"))
        return self.dataset.embeddings.exists() or any(any(found) for found in left)


def read_precision(dataset: DatasetPaths) -> str | None:
    """Return what `precision: auto` is for a dataset; None if that is not decided."""
    try:
        note = read_json(dataset.precision)
    except (FileNotFoundError, ValueError):
        return None
    return note["precision"] if _is_note(note) else None


def _is_note(note: dict) -> bool:
    texts = [note.get(name) for name in ("precision", "decided_by", "run")]
    return all(isinstance(text, str) for text in texts) and texts[0] in PRECISIONS
