"""Merge the shards of a dataset into one HDF5 file, in input order, and prove it complete."""

import csv
import json
import logging
import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import torch

from spotesm import __version__
from spotesm.durable import read_json, replacing, write_json
from spotesm.failures import IncompleteError, TooManyRejectedError
from spotesm.fasta import DIGEST_BYTES
from spotesm.sharding import REJECTED_COLUMNS
from spotesm.storage import TEXT
from spotesm.summary import describe
from spotesm.weights import UNTRAINED

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
BLOCK_BYTES = 64 << 20
CHUNK_BYTES = 128 << 10  # what reading one row costs at most, against the overhead of many chunks
COMMON_ATTRIBUTES = (
    "fingerprint",
    "model",
    "weights",
    "weights_sha256",
    "layers",
    "outputs",
    "precision",
    "long_sequences",
)


@dataclass(frozen=True)
class MergeJob:
    """What `merge_shards` reads and writes.

    Attributes:
        shards: the shard files; each holds its records in ascending order of their ordinals.
        split: the counts of `split_fasta`, JSON.
        split_rejected: the records that `split_fasta` rejected, TSV.
        output: the HDF5 file of the dataset.
        rejected: every rejected record of the dataset, TSV.
        summary: what was done, in numbers, JSON.
        max_rejected: fraction of the records that may be rejected.
        config: the settings of the run, kept in the file.
    """

    shards: Sequence[Path]
    split: Path
    split_rejected: Path
    output: Path
    rejected: Path
    summary: Path
    max_rejected: float
    config: dict


def merge_shards(job: MergeJob) -> dict:
    """Merge shards block by block, holding a fixed number of rows in memory.

    Returns:
        The summary that was written.

    Raises:
        IncompleteError: an ordinal of the input is neither embedded nor rejected, or is both
            or twice; a value is not finite; or the shards differ in their settings. Nothing
            is written then.
        TooManyRejectedError: more than `max_rejected` of the records were. Nothing is written;
            the shards stay.
    """
    split = read_json(job.split)
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        shards = [stack.enter_context(h5py.File(path, "r")) for path in job.shards]
        _check_same_settings(shards)
        temporary = stack.enter_context(replacing(job.output))
        tsv = stack.enter_context(
            open(stack.enter_context(replacing(job.rejected)), "w", newline="", encoding="utf-8")
        )
        rejected = csv.writer(tsv, delimiter="\t", lineterminator="\n")
        rejected.writerow(REJECTED_COLUMNS)
        file = stack.enter_context(h5py.File(temporary, "w"))
        output = _Output(file, shards)
        for block in _read_blocks(shards, job.split_rejected, split["n_records"]):
            output.append(block)
            for line in block.rejected:
                rejected.writerow(line)
                reasons[line[3]] += 1
        _check_rejected(reasons, split["n_records"], job.max_rejected)
        file.attrs.update(_attributes(shards, job.config, split["n_records"], reasons.total()))
    summary = _summarise(job, split, reasons)
    write_json(job.summary, summary)
    log.info("%s", describe(summary))
    return summary


@dataclass(frozen=True)
class _Block:
    """The embedded records, and the rejected ones as TSV lines, of a stretch of the input."""

    mean: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    ids: np.ndarray
    rejected: list[tuple]


def _read_blocks(
    shards: Sequence[h5py.File], split_rejected: Path, n_records: int
) -> Iterator[_Block]:
    """Yield the records in input order; every ordinal below `n_records` exactly once."""
    dim = _mean_of(shards[0]).shape[1]
    block_rows = max(1, BLOCK_BYTES // (4 * dim))
    positions = [0] * len(shards)
    with open(split_rejected, newline="", encoding="utf-8") as tsv:
        rejects = csv.reader(tsv, delimiter="\t")
        next(rejects)
        reject = next(rejects, None)
        for start in range(0, n_records, block_rows):
            size = min(block_rows, n_records - start)
            lines = []
            while reject is not None and int(reject[0]) < start + size:
                lines.append((int(reject[0]), *reject[1:]))
                reject = next(rejects, None)
            yield _gather(shards, positions, start, size, lines)
    if reject is not None or any(
        p < len(s["ordinals"]) for s, p in zip(shards, positions, strict=True)
    ):
        raise IncompleteError(f"there are records beyond the {n_records} that split_fasta counted")


def _gather(
    shards: Sequence[h5py.File], positions: list[int], start: int, size: int, rejected: list[tuple]
) -> _Block:
    """Collect the ordinals from `start` on; moves `positions` past the rows taken."""
    mean = np.empty((size, _mean_of(shards[0]).shape[1]), dtype=np.float32)
    lengths = np.empty(size, dtype=np.int32)
    digests = np.empty((size, DIGEST_BYTES), dtype=np.uint8)
    ids = np.empty(size, dtype=object)
    reasons = np.full(size, "", dtype=object)
    seen = np.bincount([line[0] - start for line in rejected], minlength=size)
    embedded = seen == 0
    for place, shard in enumerate(shards):
        first = positions[place]
        # Rows a shard can have in this block are bounded by the block's size.
        limit = min(first + size, len(shard["ordinals"]))
        end = bisect_left(shard["ordinals"], start + size, lo=first, hi=limit)
        positions[place] = end
        if first == end:
            continue
        target = shard["ordinals"][first:end] - start
        np.add.at(seen, target[target >= 0], 1)
        mean[target] = _mean_of(shard)[first:end]
        lengths[target] = shard["lengths"][first:end]
        digests[target] = shard["digests"][first:end]
        ids[target] = shard["sequence_ids"].asstr()[first:end]
        reasons[target] = shard["reasons"].asstr()[first:end]
    _check_each_once(seen, start)
    for place in np.flatnonzero(reasons != ""):
        embedded[place] = False
        reason, _, detail = reasons[place].partition(": ")
        rejected.append((start + int(place), ids[place], "embed", reason, detail))
    if not np.isfinite(mean[embedded]).all():
        raise IncompleteError(f"a value of records {start} to {start + size - 1} is not finite")
    return _Block(
        mean[embedded], lengths[embedded], digests[embedded], ids[embedded], sorted(rejected)
    )


def _check_each_once(seen: np.ndarray, start: int) -> None:
    wrong = np.flatnonzero(seen != 1)
    if len(wrong):
        what = "is missing" if seen[wrong[0]] == 0 else "appears more than once"
        raise IncompleteError(
            f"record {start + wrong[0]} of the input {what}; delete the dataset's shards/ folder "
            "and run again"
        )


def _check_rejected(reasons: Counter[str], n_records: int, max_rejected: float) -> None:
    if reasons.total() > max_rejected * n_records:
        tally = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise TooManyRejectedError(
            f"{reasons.total()} of {n_records} records were rejected ({tally}), more than "
            f"max_rejected: {max_rejected:g} allows; mend the input, or raise it and run again: "
            "the embeddings stay"
        )


def _check_same_settings(shards: Sequence[h5py.File]) -> None:
    for shard in shards[1:]:
        if shard.attrs["fingerprint"] != shards[0].attrs["fingerprint"]:
            raise IncompleteError(
                f"{shard.filename} and {shards[0].filename} were computed with different settings; "
                "delete the older one and run again"
            )


class _Output:
    """The datasets of the merged file, filled from the first row on."""

    def __init__(self, file: h5py.File, shards: Sequence[h5py.File]) -> None:
        n = sum(int(shard.attrs["n_embedded"]) for shard in shards)
        name, dim = _mean_of(shards[0]).name, _mean_of(shards[0]).shape[1]
        chunk_rows = min(max(1, CHUNK_BYTES // (4 * dim)), max(1, n))
        self._mean = file.create_dataset(name, (n, dim), np.float32, chunks=(chunk_rows, dim))
        self._lengths = file.create_dataset("lengths", n, np.int32)
        self._digests = file.create_dataset("digests", (n, DIGEST_BYTES), np.uint8)
        self._ids = file.create_dataset("sequence_ids", n, TEXT)
        file["embeddings"] = h5py.SoftLink(name)
        self._end = 0

    def append(self, block: _Block) -> None:
        """Write the next rows."""
        rows = slice(self._end, self._end + len(block.ids))
        self._mean[rows] = block.mean
        self._lengths[rows] = block.lengths
        self._digests[rows] = block.digests
        self._ids[rows] = block.ids
        self._end = rows.stop


def _mean_of(shard: h5py.File) -> h5py.Dataset:
    (mean,) = shard["mean"].values()
    return mean


def _attributes(
    shards: Sequence[h5py.File], config: dict, n_records: int, n_rejected: int
) -> dict[str, object]:
    return {
        "format": "spotesm",
        "format_version": FORMAT_VERSION,
        **{name: shards[0].attrs[name] for name in COMMON_ATTRIBUTES},
        "n_records": n_records,
        "n_rejected": n_rejected,
        "spotesm_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "config": json.dumps(config, sort_keys=True),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "biologically_meaningful": not _is_untrained(shards[0]),
    }


def _is_untrained(file: h5py.File) -> bool:
    return file.attrs["weights"] == UNTRAINED


def _summarise(job: MergeJob, split: dict, reasons: Counter[str]) -> dict:
    with h5py.File(job.output, "r") as file:
        summary = {
            "file": str(job.output),
            "n_embedded": len(file["embeddings"]),
            "embedding_dim": file["embeddings"].shape[1],
            "untrained": _is_untrained(file),
            "weights_sha256": file.attrs["weights_sha256"],
            "model": file.attrs["model"],
        }
    totals: Counter[str] = Counter()
    for path in job.shards:
        with h5py.File(path, "r") as file:
            for name in ("n_sequences", "n_computed", "n_resumed", "attempts", "seconds"):
                totals[name] += file.attrs[name].item()
    return {
        **summary,
        **split,
        "n_rejected": reasons.total(),
        "rejected": dict(reasons),
        **totals,
    }
