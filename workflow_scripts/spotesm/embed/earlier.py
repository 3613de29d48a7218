"""What earlier runs computed of a shard's sequences: found, checked, and written once more.

One more source of what is done, after the shard's own parts. In this order:
    set-aside/*/                   parts of this shard that differ in what is stored alone
    results/NAME/embeddings.h5     what this dataset was before
    checkpoints/*-of-M/            parts and finished shards of another split, M not N
    results/NAME/shards/*-of-M.h5  the same, where checkpoints are elsewhere or not kept
    the files that the config names
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from spotesm.base.durable import read_json
from spotesm.base.failures import InputError
from spotesm.base.paths import in_shard_order
from spotesm.base.state import SET_ASIDE
from spotesm.embed.task import ShardJob, Task
from spotesm.hdf5.format import DAMAGE
from spotesm.machine.preemption import StopRequest
from spotesm.merged.merged_file import MergedFile
from spotesm.request.results import Results, Unusable
from spotesm.request.reuse import (
    find_difference,
    find_sound,
    find_standing,
    long_of,
    outputs_of,
    units_held,
)
from spotesm.shards.checkpoints import BOUND
from spotesm.shards.parts import FinishedFile, Part, part_paths
from spotesm.shards.shard_file import ShardFile, finished_paths
from spotesm.shards.shard_writer import ShardWriter

log = logging.getLogger(__name__)

OF_WEIGHTS = ("weights_sha256", "regression_sha256")


class Earlier(Protocol):
    """Earlier results: a `Part`, the file of a shard, or a merged one.

    Attributes:
        settings: what determined the numbers.
    """

    settings: dict

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST there are, ascending, and a row of each, (j,)."""

    def read(self, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what ascending rows (k,) hold under some keys, in blocks."""


@dataclass(frozen=True)
class Source:
    """A file that may hold results of a shard.

    Attributes:
        open: opens it.
        origin: what results that come from it are said to come from.
        asked: whether the config names it; of others it is no news if they do not serve.
    """

    path: Path
    open: Callable[[Path], AbstractContextManager[Earlier]]
    origin: str
    asked: bool = False

    @contextmanager
    def opened(self) -> Iterator[Earlier]:
        """Open it.

        Raises:
            Unusable: it cannot be read, is something else, or turns out to be damaged.
        """
        try:
            with self.open(self.path) as earlier:
                yield earlier
        except InputError as error:
            text = str(error).removeprefix(f"{self.path}: ").partition("; ")[0]
            raise Unusable(text) from error
        except DAMAGE as error:  # also if it is gone by now: its shard has just been finished
            raise Unusable(f"cannot be read, or is damaged ({error})") from error


@dataclass(frozen=True)
class Past:
    """Where earlier runs may have left results of a dataset, or of one of its shards.

    Attributes:
        merged: the dataset's merged file; None if the past is not to be looked at.
        checkpoints: the folder with the checkpoints of its shards; None likewise.
        shards: the folder with its shards' files.
        named: earlier merged files that the config names.
        set_aside: the folder of what the shard set aside.
        shard: the name of the shard, such as `3-of-16`; others of its split are not looked at, nor
            are those of another split whose digests cannot be its own. Empty for all.
    """

    merged: Path | None
    checkpoints: Path | None
    shards: Path | None
    named: Sequence[Path]
    set_aside: Path | None = None
    shard: str = ""

    @classmethod
    def of_job(cls, job: ShardJob) -> "Past":
        """Return where a shard's job looks."""
        old = not job.restart
        kept = old and job.checkpointing
        return cls(
            merged=job.past if old else None,
            checkpoints=job.checkpoints.parent if kept else None,
            shards=job.output.parent if old else None,
            named=job.reuse,
            set_aside=job.checkpoints / SET_ASIDE if kept else None,
            shard=job.output.stem,
        )

    def find_sources(self) -> Iterator[Source]:
        """Yield what is there, in order."""
        if self.set_aside:
            for folder in sorted(self.set_aside.glob("*")):
                yield from self._in_store(folder)
        if self.merged and self.merged.is_file():
            yield Source(self.merged, MergedFile, str(self.merged))
        for folder in self._others(self.checkpoints, "*-of-*"):
            for store in (folder, *sorted((folder / SET_ASIDE).glob("*"))):
                yield from self._in_store(store)
        for path in self._others(self.shards, "*-of-*.h5"):
            yield Source(path, ShardFile, str(self.shards))
        for path in self.named:
            yield Source(path, MergedFile, str(path), asked=True)

    def _others(self, folder: Path | None, pattern: str) -> list[Path]:
        paths = in_shard_order(folder.glob(pattern)) if folder else ()
        return [path for path in paths if not self.shard or _share_digests(path.stem, self.shard)]

    def _in_store(self, folder: Path) -> Iterator[Source]:
        """Yield what lies in a folder of checkpoints, if it says of which settings."""
        try:
            settings = read_json(folder / BOUND)
        except (OSError, ValueError):  # none, or none of ours
            return
        for path in finished_paths(folder):
            yield Source(path, FinishedFile, str(self.checkpoints))
        for path in part_paths(folder):
            yield Source(path, partial(Part, settings=settings), str(self.checkpoints))


def _share_digests(other: str, shard: str) -> bool:
    """Whether two shards are of different splits, and the ranges of their digests meet."""
    (i, n), (j, m) = (map(int, name.split("-of-")) for name in (other, shard))
    return n != m and (i - 1) * m < j * n and (j - 1) * n < i * m


def write_earlier(task: Task, writer: ShardWriter, stop: StopRequest) -> None:
    """Write what earlier runs computed of what is not done yet.

    A source that does not serve is named, and its sequences stay to do.
    """
    for source in Past.of_job(task.job).find_sources():
        if writer.done.all():
            return
        before = writer.n_reused
        try:
            for results in read_source(source, task, writer):
                writer.add(results)
                stop.leave_if_asked()
        except Unusable as problem:
            log.warning("reuse: %s %s; not used", source.path, problem)
        if taken := writer.n_reused - before:
            log.info("reuse: %d sequences from %s", taken, source.path)


def read_source(source: Source, task: Task, writer: ShardWriter) -> Iterator[Results]:
    """Yield what a source holds of the sequences that lack something, if it serves.

    Raises:
        Unusable: it cannot be read, is damaged, or none of ours.
    """
    with source.opened() as earlier:
        theirs = earlier.settings
        units = _units_of(source, theirs, task.settings)
        if not units:
            return
        _, rows = earlier.find(task.shard.digests[writer.lack(units)])
        for results in earlier.read(np.sort(rows), task.outputs.keys_of(units)):
            lengths = task.shard.lengths[task.shard.find(results.digests)]
            sound = find_sound(results, lengths, task.request, long_of(theirs))
            sound |= find_standing(results, lengths, theirs, task.settings, task.hardware)
            if sound.any():
                found = results.take(np.flatnonzero(sound)).astype(task.outputs.dtype)
                yield replace(found, origin=source.origin)


def _units_of(source: Source, theirs: Mapping, ours: Mapping) -> list[str]:
    """Return what of the units wanted a source has; none if its settings are others."""
    problem = find_difference(theirs, ours)
    if problem is None:
        return units_held(theirs, ours)
    if source.asked:
        log.warning("reuse: %s %s; not used", source.path, problem)
    else:
        log.info("%s %s", source.path, problem)
    return []


def find_done(
    past: Past, settings: Mapping, digests: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return which sequences need not be computed, for what earlier runs left, (u,) bool.

    Args:
        settings: what determines the numbers; without those of weights, any will do.
        digests: (u,) DIGEST, ascending.
        lengths: (u,) residues of each.
    """
    done = np.zeros(len(digests), bool)
    for source in past.find_sources():
        if done.all():
            break
        try:
            with source.opened() as earlier:
                if _has_all(source, earlier.settings, settings):
                    found = earlier.find(digests)[0]
                    theirs = long_of(earlier.settings)
                    done[found] |= long_of(settings).cuts_like(theirs, lengths[found])
        except Unusable as problem:
            log.warning("reuse: %s %s; not used", source.path, problem)
    return done


def _has_all(source: Source, theirs: Mapping, ours: Mapping) -> bool:
    ours = {**{name: theirs[name] for name in OF_WEIGHTS if name in theirs}, **ours}
    return _units_of(source, theirs, ours) == outputs_of(ours).units
