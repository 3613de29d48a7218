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

from spotesm.base.durable import make_directory, publish, sync_directory, write_json
from spotesm.base.failures import ShardBusyError, writing
from spotesm.base.journal import Journal
from spotesm.base.locks import try_lock
from spotesm.base.state import SET_ASIDE, read_state
from spotesm.request.results import Results, Unusable
from spotesm.request.reuse import find_difference
from spotesm.shards.parts import (
    FinishedFile,
    Part,
    digest_file,
    digest_settings,
    pack,
    part_number,
    part_paths,
)
from spotesm.shards.shard_file import finished_paths

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2  # another one sets all older parts aside
LOCK_WAIT_SECONDS = 60.0
BOUND = "fingerprint.json"


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
        self._fingerprint_digest = digest_settings(fingerprint)
        self._pending: list[Results] = []
        self._pending_sequences = self._pending_bytes = 0
        self._last_part_time = time.monotonic()
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future | None = None
        self._plan = directory / "plan.json"
        self.token_budget = 0
        self.journal = Journal(directory / "journal.jsonl")
        self._bind()
        parts = part_paths(self.directory)
        self._next_number = 1 + max(map(part_number, parts), default=0)

    # -- what earlier attempts left ------------------------------------------------------

    def _bind(self) -> None:
        """Bind the directory to the fingerprint, or set aside what belongs to another one."""
        bound = self.directory / BOUND
        always = {k: v for k, v in self.fingerprint.items() if k != "regression_sha256"}
        without = "parts and finished files say themselves whose they are"
        before = read_state(bound, lambda content: _is_like(content, always), without)
        if before == self.fingerprint:
            return
        if before is not None:
            ours, keys = self.fingerprint, before.keys() | self.fingerprint.keys()
            changed = sorted(key for key in keys if before.get(key) != ours.get(key))
            log.warning("settings changed (%s): starting anew", ", ".join(changed))
            if find_difference(before, self.fingerprint) is None:
                self._set_aside_to_reuse(before)
            self.start_anew()
        write_json(bound, self.fingerprint)

    def _set_aside_to_reuse(self, before: dict) -> None:
        """Move what was finished under other settings to where `stores_below` finds it."""
        folder = self.directory / SET_ASIDE / digest_settings(before)
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
        for path in [*finished_paths(self.directory), *part_paths(self.directory)]:
            try:
                yield from self._read(path)
            except Unusable as problem:
                self._set_aside(path, str(problem))

    def _read(self, path: Path) -> Iterator[Results]:
        if path.suffix == ".pt":
            with Part(path, self.fingerprint) as part:
                yield from part.read_all()
            return
        with FinishedFile(path) as finished:
            if finished.settings != self.fingerprint:
                raise Unusable("belongs to other settings")
            yield from finished.read_all()

    # -- what this attempt adds ----------------------------------------------------------

    def add(self, results: Results) -> None:
        """Take the outputs of a batch; write a part in the background when one is due."""
        self._pending.append(results)
        self._pending_sequences += len(results.digests)
        self._pending_bytes += results.nbytes
        limits = self.thresholds
        if (
            self._pending_sequences >= limits.sequences
            or self._pending_bytes >= limits.bytes
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
        self._pending, self._pending_sequences, self._pending_bytes = [], 0, 0
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
            "batches": [pack(results) for results in batches],
        }
        try:
            with writing(self.directory / f"part-{number:05d}", temporary):
                with open(temporary, "wb") as file:
                    torch.save(content, file)
                digest = digest_file(temporary)
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
        kept = self._read_plan()
        if kept and kept["requested"] == requested:
            self.token_budget = kept["tokens_per_batch"]
        else:
            self.token_budget = requested or choose()
            plan = {"requested": requested, "tokens_per_batch": self.token_budget}
            write_json(self._plan, plan)
        return self.token_budget

    def lower_token_budget(self, budget: int) -> None:
        """Remember a smaller budget for later attempts, after memory ran out."""
        self.token_budget = budget
        plan = self._read_plan() or {"requested": 0}
        write_json(self._plan, {**plan, "tokens_per_batch": budget})

    def _read_plan(self) -> dict | None:
        return read_state(self._plan, _is_plan, "the batches are planned anew")

    def keep_finished(self, output: Path) -> None:
        """Give the shard's complete file a second name here, which takes no space.

        A Snakemake that was killed knows nothing of a shard that was finished later: its next
        run deletes the file and starts the job anew, which then finds all results here.
        """
        for path in finished_paths(self.directory):
            path.unlink()
        try:
            os.link(output, self.directory / f"finished.{digest_file(output)}.h5")
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


def _is_like(content: object, ours: object) -> bool:
    """Whether something has the keys and the types that ours has."""
    if type(content) is not type(ours):
        return False
    return not isinstance(ours, dict) or all(_is_like(content.get(k), v) for k, v in ours.items())


def _is_plan(content: dict) -> bool:
    requested, budget = content.get("requested"), content.get("tokens_per_batch")
    return type(requested) is type(budget) is int and budget > 0
