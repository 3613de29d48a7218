"""The durable state of one shard: parts of finished sequences, and what they belong to.

A checkpoint directory holds
    lock                    held (flock) by the one process that may write
    fingerprint.json        what determines the numbers; bound to it at the first start
    plan.json               the batch plan's settings, kept for every later attempt
    part-00001.<digest>.pt  digests and outputs of finished sequences; the name carries the
                            blake2b-128 of the file's bytes
    finished.<digest>.h5    the shard's own file once it is complete, under a second name: what
                            Snakemake deletes, or a longer FASTA makes stale, is not lost
    journal.jsonl           what happened in every attempt
    set-aside/              parts that were damaged or belong to another fingerprint; those of one
                            that differs in what is stored alone have a folder of their own there,
                            with its fingerprint.json, and are read again for what they hold
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from spotesm.base.classification import classify
from spotesm.base.durable import make_directory, publish, read_json, sync_directory, write_json
from spotesm.base.failures import OUT_OF_MEMORY, ShardBusyError, writing
from spotesm.base.journal import Journal
from spotesm.base.locks import try_lock
from spotesm.hdf5.shard_file import read_shard_results
from spotesm.request.results import Ragged, Results
from spotesm.request.reuse import find_difference
from spotesm.sequences.digests import as_bytes, from_bytes
from spotesm.sequences.reasons import Reason

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2  # another one sets all older parts aside
LOCK_WAIT_SECONDS = 60.0
BOUND = "fingerprint.json"
SET_ASIDE = "set-aside"


@dataclass(frozen=True)
class Thresholds:
    """A part is written when the first of these is reached since the last one.

    Attributes:
        sequences: finished sequences.
        seconds: time.
        bytes: size of their outputs.
    """

    sequences: int
    seconds: float
    bytes: int


class Checkpoints:
    """The checkpoint directory of one shard, while this process holds its lock."""

    def __init__(self, directory: Path, fingerprint: dict, thresholds: Thresholds) -> None:
        self.directory = directory
        self.fingerprint = fingerprint
        self.thresholds = thresholds
        self._fingerprint_digest = _digest_json(fingerprint)
        self._pending: list[Results] = []
        self._last_part_time = time.monotonic()
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future | None = None
        self._plan = directory / "plan.json"
        self.token_budget = 0
        self.journal = Journal(directory / "journal.jsonl")
        self._bind()
        parts = part_paths(self.directory)
        self._next_number = 1 + max(map(_part_number, parts), default=0)

    # -- what earlier attempts left ------------------------------------------------------

    def _bind(self) -> None:
        """Bind the directory to the fingerprint, or set aside what belongs to another one."""
        bound = self.directory / BOUND
        if bound.exists():
            before = read_json(bound)
            if before == self.fingerprint:
                return
            changed = sorted(
                key
                for key in before.keys() | self.fingerprint.keys()
                if before.get(key) != self.fingerprint.get(key)
            )
            log.warning("settings changed (%s): starting anew", ", ".join(changed))
            if find_difference(before, self.fingerprint) is None:
                self._set_aside_to_reuse(before)
        self.start_anew()
        write_json(bound, self.fingerprint)

    def _set_aside_to_reuse(self, before: dict) -> None:
        """Move what was finished under other settings to where `stores_below` finds it."""
        folder = self.directory / SET_ASIDE / _digest_json(before)
        make_directory(folder)
        write_json(folder / BOUND, before)
        for path in [*part_paths(self.directory), *finished_paths(self.directory)]:
            os.replace(path, folder / path.name)
        sync_directory(folder)

    def start_anew(self) -> None:
        """Set every part aside, and forget the plan."""
        for path in [*part_paths(self.directory), *finished_paths(self.directory)]:
            self._set_aside(path, "belongs to an earlier start")
        self._plan.unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str) -> None:
        destination = self.directory / SET_ASIDE
        destination.mkdir(exist_ok=True)
        os.replace(path, destination / path.name)
        log.warning("checkpoint %s %s; set aside, its sequences are to do", path.name, reason)

    def read_parts(self) -> Iterator[Results]:
        """Yield what is on disk, piece by piece; damaged or foreign files are set aside."""
        for path in finished_paths(self.directory):
            try:
                check_digest(path)
            except DamagedPart as damage:
                self._set_aside(path, str(damage))
            else:
                yield from read_shard_results(path)
        for path in part_paths(self.directory):
            try:
                yield from read_part(path, self.fingerprint)
            except DamagedPart as damage:
                self._set_aside(path, str(damage))

    # -- what this attempt adds ----------------------------------------------------------

    def add(self, results: Results) -> None:
        """Take the outputs of a batch; write a part in the background when one is due."""
        self._pending.append(results)
        limits = self.thresholds
        if (
            sum(len(r.digests) for r in self._pending) >= limits.sequences
            or sum(r.nbytes for r in self._pending) >= limits.bytes
            or time.monotonic() - self._last_part_time >= limits.seconds
        ):
            self._start_part()

    def flush(self) -> None:
        """Return when everything added is on disk."""
        if self._pending:
            self._start_part()
        self._finish_part()

    def _start_part(self) -> None:
        self._finish_part()
        self._writing = self._writer.submit(self._write_part, self._next_number, self._pending)
        self._pending = []
        self._last_part_time = time.monotonic()
        self._next_number += 1

    def _finish_part(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write_part(self, number: int, batches: list[Results]) -> None:
        temporary = self.directory / ".part.tmp"
        content = {
            "fingerprint": self._fingerprint_digest,
            "batches": [_pack(results) for results in batches],
        }
        try:
            with writing(self.directory / f"part-{number:05d}", temporary):
                with open(temporary, "wb") as file:
                    torch.save(content, file)
                digest = _digest_file(temporary)
                publish(temporary, self.directory / f"part-{number:05d}.{digest}.pt")
        finally:
            temporary.unlink(missing_ok=True)  # on a full disk, half a part is in the way
        log.info("checkpoint %d: %d sequences", number, sum(len(b.digests) for b in batches))

    # -- the plan, and the end --------------------------------------------------------------

    def fix_token_budget(self, requested: int, choose: Callable[[], int]) -> int:
        """Return the token budget of the first attempt, unless another one is asked for now.

        The same budget gives the same batches, and so the same bits, on every attempt. Where
        none is asked for (0), the first attempt's `choose` decides.
        """
        if self._plan.exists() and (kept := read_json(self._plan))["requested"] == requested:
            self.token_budget = kept["tokens_per_batch"]
        else:
            self.token_budget = requested or choose()
            plan = {"requested": requested, "tokens_per_batch": self.token_budget}
            write_json(self._plan, plan)
        return self.token_budget

    def lower_token_budget(self, budget: int) -> None:
        """Remember a smaller budget for later attempts, after memory ran out."""
        self.token_budget = budget
        write_json(self._plan, {**read_json(self._plan), "tokens_per_batch": budget})

    def keep_finished(self, output: Path) -> None:
        """Give the shard's complete file a second name here, which takes no space.

        A Snakemake that was killed knows nothing of a shard that was finished later: its next
        run deletes the file and starts the job anew, which then finds all results here.
        """
        for path in finished_paths(self.directory):
            path.unlink()
        try:
            os.link(output, self.directory / f"finished.{_digest_file(output)}.h5")
            sync_directory(self.directory)
        except OSError as error:  # another file system, or one without links
            log.info("%s keeps one name only (%s)", output, error.strerror)

    def remove_parts(self) -> None:
        """Remove the parts and the plan, once the shard's own file holds the results."""
        for path in part_paths(self.directory):
            path.unlink()
        shutil.rmtree(self.directory / SET_ASIDE, ignore_errors=True)
        self._plan.unlink(missing_ok=True)

    def close(self) -> None:
        """Wait for the writer thread to end."""
        self._writer.shutdown()


class DamagedPart(Exception):
    """A part that must not be used; says why."""


def part_paths(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order in which they were written."""
    return sorted(folder.glob("part-[0-9]*.*.pt"), key=_part_number)


def finished_paths(folder: Path) -> list[Path]:
    """Return the shards' files that a folder keeps under a second name."""
    return sorted(folder.glob("finished.*.h5"))


def read_part(path: Path, fingerprint: dict) -> Iterator[Results]:
    """Yield what a part holds, batch by batch.

    Raises:
        DamagedPart: it is damaged, or of another fingerprint or format; nothing was yielded then.
    """
    check_digest(path)
    try:
        # Mapped, not read: residues of many sequences need not be in memory together.
        part = torch.load(str(path), weights_only=True, mmap=True)
        bound, batches = part["fingerprint"], [_unpack(batch) for batch in part["batches"]]
    except Exception as error:  # on foreign bytes torch's reader raises nearly anything
        if isinstance(error, OSError) or classify(error) == OUT_OF_MEMORY:
            raise  # the part may be whole
        raise DamagedPart("is of another format") from error
    if bound != _digest_json(fingerprint):
        raise DamagedPart("belongs to other settings")
    yield from batches


@contextmanager
def open_checkpoints(
    directory: Path,
    fingerprint: dict,
    thresholds: Thresholds,
    lock_wait: float = LOCK_WAIT_SECONDS,
) -> Iterator[Checkpoints]:
    """Lock a shard's checkpoint directory and yield its state.

    Raises:
        ShardBusyError: another process still holds the lock after `lock_wait` seconds, such as
            a job whose Snakemake was killed.
    """
    make_directory(directory)
    with _locked(directory, lock_wait):
        checkpoints = Checkpoints(directory, fingerprint, thresholds)
        try:
            yield checkpoints
        finally:
            checkpoints.close()


@contextmanager
def _locked(directory: Path, wait: float) -> Iterator[None]:
    lock, elsewhere = directory / "lock", "checkpoint: dir"
    with try_lock(lock, elsewhere) as free:
        if free:
            yield
            return
    log.warning("%s: another process is writing this shard; waiting for it", directory)
    with try_lock(lock, elsewhere, wait) as free:
        if not free:
            raise ShardBusyError(
                f"{directory}: another process has been writing this shard for {wait:.0f} s; "
                "wait for it or end it, then run again"
            )
        yield


def _pack(results: Results) -> dict:
    """Return what of a batch goes into a part: tensors, text and containers alone."""
    return {
        "digests": torch.from_numpy(as_bytes(results.digests).copy()),
        "reasons": [reason and (reason.keyword, reason.detail) for reason in results.reasons],
        "windows": torch.from_numpy(results.windows),
        "rows": {key: torch.from_numpy(rows) for key, rows in results.rows.items()},
        "ragged": {
            key: {"values": torch.from_numpy(r.values), "sizes": torch.from_numpy(r.sizes)}
            for key, r in results.ragged.items()
        },
    }


def _unpack(batch: dict) -> Results:
    """Return what `_pack` was given.

    Raises:
        ValueError: it does not hold as much of everything; other errors if it is no such batch.
    """
    results = Results(
        from_bytes(batch["digests"].numpy()),
        [_reason(stored) for stored in batch["reasons"]],
        batch["windows"].numpy(),
        {key: rows.numpy() for key, rows in batch["rows"].items()},
        {
            key: Ragged(ragged["values"].numpy(), ragged["sizes"].numpy())
            for key, ragged in batch["ragged"].items()
        },
    )
    counts = [results.windows, *(ragged.sizes for ragged in results.ragged.values())]
    of_sequences = [results.reasons, *counts, *results.rows.values()]
    if (
        {len(each) for each in of_sequences} != {len(results.digests)}
        or any(numbers.dtype.kind != "i" for numbers in counts)
        or any(ragged.sizes.sum() != len(ragged.values) for ragged in results.ragged.values())
    ):
        raise ValueError("a batch contradicts itself")
    return results


def _reason(stored: tuple[str, str] | str | None) -> Reason | None:
    if isinstance(stored, str):  # older parts have `KEYWORD: DETAIL`, and nothing for None
        stored = tuple(stored.split(": ", 1)) if stored else None
    return Reason(*stored) if stored else None


def _new_digest() -> "hashlib._Hash":
    return hashlib.blake2b(digest_size=16)


def _digest_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _new_digest).hexdigest()


def check_digest(path: Path) -> None:
    """Check that a file still has the bytes whose digest its name carries.

    Raises:
        DamagedPart: it has not.
    """
    if _digest_file(path) != path.name.split(".")[1]:
        raise DamagedPart("is damaged")


def _digest_json(content: dict) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _part_number(path: Path) -> int:
    return int(path.name.removeprefix("part-").split(".")[0])
