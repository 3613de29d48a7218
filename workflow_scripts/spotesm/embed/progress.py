"""What a job says while it works: a log line and `progress.json` every few seconds."""

import json
import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from spotesm.request.results import Results

if TYPE_CHECKING:  # for its type alone torch need not be loaded
    from spotesm.embed.task import Task

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_FILES = 2.0
FILE_NAME = "progress.json"
SPEED_FILE_NAME = "speed.jsonl"  # a line for each stretch of work: its start, its end, its tokens


@dataclass
class Snapshot:
    """How far an attempt at a shard is; the content of `progress.json`.

    Attributes:
        time: when this was so, seconds since 1970.
        started: when the attempt began.
        attempt: its number.
        host, pid, device, slurm_job: where it runs.
        sequences, sequences_done, resumed, reused, rejected: counts of the shard's different
            sequences; those resumed are of its own earlier attempts, those reused of other runs.
        residues_done: of the sequences done.
        tokens, tokens_done: cost of the shard, and of what is done, windows and all.
        tokens_per_second: of this attempt so far.
        seconds_to_go: for this attempt, at that speed; None while it has none.
        parts: checkpoint parts on disk.
    """

    time: float
    started: float
    attempt: int
    host: str
    pid: int
    device: str
    slurm_job: str | None
    sequences: int
    sequences_done: int
    resumed: int
    reused: int
    rejected: int
    residues_done: int
    tokens: int
    tokens_done: int
    tokens_per_second: float
    seconds_to_go: float | None
    parts: int


class Progress:
    """Counts what is embedded; tells the log and `progress.json`, both now and then.

    Args:
        task: the shard; `progress.json` lies with its parts.
        done: (u,) bool, which of its sequences are finished.
        reused: how many of them were by other runs; all others by earlier attempts.
        attempt: the number of this one.
    """

    def __init__(self, task: "Task", done: np.ndarray, reused: int, attempt: int) -> None:
        self.done = done
        self.lengths = lengths = task.shard.lengths
        self.tokens = tokens = task.tokens
        self.device = str(task.device)
        self.attempt = attempt
        self.folder = task.job.checkpoints
        self.reused = reused
        self.resumed = int(done.sum()) - reused
        self.computed = self.rejected = 0
        self.residues_done = int(lengths[done].sum())
        self.tokens_resumed = self.tokens_done = int(tokens[done].sum())
        self.tokens_within = 0  # of a batch of several passes, those that are through
        self.started, self.clock_started = time.time(), time.monotonic()
        self.last_line = self.last_file = self.clock_started
        self.last_snapshot = self.snapshot()
        log.info(
            "%d of %d sequences are done already, %d of them by earlier runs",
            *(self.resumed + reused, len(done), reused),
        )
        self.write()

    @property
    def seconds(self) -> float:
        """Time since the work began."""
        return time.monotonic() - self.clock_started

    def advance(self, batch: np.ndarray, results: Results) -> None:
        """Count the sequences with the indices `batch` as done."""
        self.computed += len(batch)
        self.rejected += sum(bool(reason) for reason in results.reasons)
        self.residues_done += int(self.lengths[batch].sum())
        self.tokens_done += int(self.tokens[batch].sum())
        self.tokens_within = 0
        self._tell()

    def advance_within(self, tokens: int) -> None:
        """Count tokens of a batch that is not finished: of a protein of many windows, say."""
        self.tokens_within += tokens
        self._tell()

    def end(self) -> None:
        """Tell for the last time; what is not finished does not count."""
        self.tokens_within = 0
        self.write()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self.last_file >= SECONDS_BETWEEN_FILES:
            self.last_file = now
            self.write()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            self._log()

    def snapshot(self) -> Snapshot:
        """Return how far the attempt is."""
        tokens = int(self.tokens.sum())
        # Passes that are run again, for want of memory or precision, may count twice.
        tokens_done = min(self.tokens_done + self.tokens_within, tokens)
        speed = (tokens_done - self.tokens_resumed) / max(self.seconds, 1e-9)
        return Snapshot(
            time=time.time(),
            started=self.started,
            attempt=self.attempt,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self.device,
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            sequences=len(self.tokens),
            sequences_done=self.resumed + self.reused + self.computed,
            resumed=self.resumed,
            reused=self.reused,
            rejected=self.rejected,
            residues_done=self.residues_done,
            tokens=tokens,
            tokens_done=tokens_done,
            tokens_per_second=speed,
            seconds_to_go=(tokens - tokens_done) / speed if speed else None,
            parts=len(list(self.folder.glob("part-*.pt"))),
        )

    def _log(self) -> None:
        now = self.snapshot()
        log.info(
            "%d of %d sequences, %d residues, %.1f%% of the tokens, %.0f tokens/s, %.0f s to go "
            "on %s; %d parts, %d sequences resumed",
            now.sequences_done,
            now.sequences,
            now.residues_done,
            100 * now.tokens_done / now.tokens,
            now.tokens_per_second,
            now.seconds_to_go,
            self.device,
            now.parts,
            self.resumed,
        )

    def write(self) -> None:
        """Replace `progress.json`, and note the speed since it was written last."""
        # Whole or absent like all files, but no more: news need not survive a power cut, and a
        # disk that has no room for them must not end the work.
        temporary = self.folder / f".{FILE_NAME}.tmp"
        before, now = self.last_snapshot, self.snapshot()
        self.last_snapshot = now
        with suppress(OSError):
            temporary.write_text(json.dumps(asdict(now)), encoding="utf-8")
            os.rename(temporary, self.folder / FILE_NAME)
            if (stretch := now.tokens_done - before.tokens_done) > 0:
                with open(self.folder / SPEED_FILE_NAME, "a", encoding="utf-8") as file:
                    file.write(f"{json.dumps([before.time, now.time, stretch])}\n")
