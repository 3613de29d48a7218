"""The records of several shards, gathered block by block in input order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spotesm.base.failures import IncompleteError, InputError
from spotesm.hdf5.checksums import checksums_at
from spotesm.hdf5.pieces import bytes_of_row
from spotesm.request.outputs import Output, output_of
from spotesm.request.results import Unusable
from spotesm.sequences.reasons import Reason
from spotesm.sequences.rejected import EMBED, TRANSLATE, Rejected, read_rejected
from spotesm.shards.shard_file import REUSED, SEQUENCES, ShardFile

BLOCK_BYTES = 64 << 20
LEAST_BYTES_OF_RECORD = 256  # about what its id, digest and place take
MORE_THAN_EXPECTED = 64
OF_RECORDS = ("sequence_ids", "id_keys")
OF_SEQUENCES = ("lengths", "digests", "windows")
NOT_WHOLE = (
    "{}: not a whole shard file; delete it and run again: its results are kept among the "
    "checkpoints"
)


def open_shard(path: Path) -> ShardFile:
    """Open a shard's file.

    Raises:
        IncompleteError: it is not whole.
    """
    try:
        return ShardFile(path)
    except Unusable as error:
        raise IncompleteError(NOT_WHOLE.format(path)) from error


@dataclass(frozen=True)
class Block:
    """A stretch of the input: its embedded records, r in all, and the rejected ones.

    Attributes:
        shards: (r,) which shard each record is in.
        columns: by dataset of the shards, what is known of each embedded record, (r, ...); ids are
            bytes. What comes next is read into the same memory.
        spans: by ragged output, where the values of each record begin and end in its shard, (r, 2).
        rejected: the others, ascending.
        unfit: by digest, those of them that were rejected for their device's sake.
    """

    shards: np.ndarray
    columns: dict[str, np.ndarray]
    spans: dict[Output, np.ndarray]
    rejected: list[Rejected]
    unfit: dict[bytes, Reason]


class Gatherer:
    """Reads the records of all shards in input order; every ordinal exactly once.

    Here, and nowhere else, what is known by sequence becomes known by record.

    Args:
        n_records: how many the input has.

    Attributes:
        buffers: one block of each column, of the type that holds the values of each shard.
        origins: the earlier files that sequences of any shard were taken from.
    """

    def __init__(self, shards: Sequence[ShardFile], n_records: int) -> None:
        self.shards = shards
        self.n_records = n_records
        self.positions = [0] * len(shards)
        first, outputs = shards[0], shards[0].outputs
        self.ragged = list(dict.fromkeys(map(output_of, outputs.ragged_keys)))
        self.origins = list(dict.fromkeys(name for shard in shards for name in shard.origins))
        # By shard, what its own numbers of earlier files are in the merged file.
        self._numbers = [
            np.array([0, *(1 + self.origins.index(name) for name in shard.origins)], np.uint16)
            for shard in shards
        ]
        self._names = [*OF_SEQUENCES, *map(checksums_at, outputs.keys), *outputs.row_keys]
        row = sum(bytes_of_row(first.sequences.columns[key]) for key in outputs.row_keys)
        self.block_rows = min(n_records, max(1, BLOCK_BYTES // max(row, LEAST_BYTES_OF_RECORD)))
        like = {name: first.sequences.columns[name] for name in self._names}
        like |= {name: self._widest(name) for name in OF_RECORDS}
        self.buffers = {
            name: np.empty((self.block_rows, *column.shape[1:]), column.dtype)
            for name, column in like.items()
        }
        if self.origins:
            self.buffers[REUSED] = np.empty(self.block_rows, np.uint16)

    def _widest(self, name: str) -> np.ndarray:
        columns = [shard.records.columns[name] for shard in self.shards]
        return max(columns, key=lambda column: (column.dtype.hasobject, column.dtype.itemsize))

    def read_blocks(self, split_rejected: Path) -> Iterator[Block]:
        """Yield all records, some at a time.

        Raises:
            IncompleteError: an ordinal is missing or comes twice, a value is not finite.
        """
        rejects = (r for r in read_rejected(split_rejected) if r.stage != TRANSLATE)
        reject = next(rejects, None)
        for start in range(0, self.n_records, max(self.block_rows, 1)):
            size = min(self.block_rows, self.n_records - start)
            rejected = []
            while reject is not None and reject.ordinal < start + size:
                rejected.append(reject)
                reject = next(rejects, None)
            yield self._gather(start, size, rejected)
        if reject is not None or self.positions != [shard.n_records for shard in self.shards]:
            raise IncompleteError(
                f"there are records beyond the {self.n_records} that split_fasta counted"
            )

    def _gather(self, start: int, size: int, rejected: list[Rejected]) -> Block:
        """Collect the ordinals from `start` on; moves `positions` past the records taken."""
        columns = {name: buffer[:size] for name, buffer in self.buffers.items()}
        spans = {output: np.zeros((size, 2), np.int64) for output in self.ragged}
        shard_of = np.zeros(size, np.int64)
        seen = np.bincount([record.ordinal - start for record in rejected], minlength=size)
        embedded = seen == 0
        unfit = {}
        for number, shard in enumerate(self.shards):
            try:
                target = self._read_ordinals(number, start + size, size) - start
                if not len(target):
                    continue
                _check_ascending(target, start)
                seen[target] += 1
                first = self.positions[number] - len(target)
                rows = shard.records.read(SEQUENCES, first, first + len(target))
                shard_of[target] = number
                for name in OF_RECORDS:
                    columns[name][target] = shard.records.read(name, first, first + len(target))
                self._fill(number, rows, target, columns, spans)
                for place, reason in _find_rejected(shard, rows):
                    ordinal = int(target[place])
                    embedded[ordinal] = False
                    identifier = columns["sequence_ids"][ordinal].decode()
                    found = (start + ordinal, identifier, EMBED, reason.keyword, reason.detail)
                    rejected.append(Rejected(*found))
                    if reason.device:
                        unfit[columns["digests"][ordinal].tobytes()] = reason
            except InputError as error:  # shorter than it says
                raise IncompleteError(NOT_WHOLE.format(shard.path)) from error
        _check_each_once(seen, start)
        if not embedded.all():
            columns = {name: column[embedded] for name, column in columns.items()}
            spans = {output: span[embedded] for output, span in spans.items()}
            shard_of = shard_of[embedded]
        self._check_values(columns, f"records {start} to {start + size - 1}")
        return Block(shard_of, columns, spans, sorted(rejected), unfit)

    def _read_ordinals(self, number: int, below: int, size: int) -> np.ndarray:
        """Return the next ordinals of a shard that are below one, and move its position."""
        shard = self.shards[number]
        about = size // len(self.shards) + MORE_THAN_EXPECTED
        found, end = [], self.positions[number]
        while end < shard.n_records:
            block = shard.records.read("ordinals", end, min(end + about, shard.n_records))
            found.append(block[: np.searchsorted(block, below)])
            end += len(found[-1])
            if len(found[-1]) < len(block):
                break
        self.positions[number] = end
        return np.concatenate(found or [np.empty(0, np.int64)])

    def _fill(
        self,
        number: int,
        rows: np.ndarray,
        target: np.ndarray,
        columns: dict[str, np.ndarray],
        spans: dict[Output, np.ndarray],
    ) -> None:
        """Fill in, at `target`, what a shard says of the sequences `rows`."""
        table, places = self.shards[number].sequences, np.arange(len(rows))
        if (np.diff(rows) <= 0).any():  # some are repeated
            rows, places = np.unique(rows, return_inverse=True)
        for name in self._names:
            columns[name][target] = table.read_rows(name, rows)[places]
        if self.origins:
            has_origins = REUSED in table.columns
            own = table.read_rows(REUSED, rows)[places] if has_origins else np.zeros_like(places)
            columns[REUSED][target] = self._numbers[number][own]
        for output, span in spans.items():
            span[target] = np.stack(table.read_offsets(output, rows), 1)[places]

    def count_values(self, output: Output) -> int:
        """Return how many values of a ragged output all embedded records have together."""
        total = 0
        for shard in self.shards:
            rows = np.arange(shard.n_sequences)
            starts, ends = shard.sequences.read_offsets(output, rows)
            sizes = ends - starts
            sizes[list(shard.read_reasons(rows))] = 0
            total += int(sizes[shard.records.read(SEQUENCES, 0, shard.n_records)].sum())
        return total

    def _check_values(self, columns: dict[str, np.ndarray], which: str) -> None:
        if (columns["windows"] < 1).any():
            raise IncompleteError(f"one of the {which} has no result")
        for key in self.shards[0].outputs.row_keys:
            if not np.isfinite(columns[key]).all():
                raise IncompleteError(f"a value of {which} is not finite")


def _find_rejected(shard: ShardFile, rows: np.ndarray) -> Iterator[tuple[int, Reason]]:
    """Yield which of some records, whose sequences are `rows`, were rejected, and why."""
    if not shard.all_embedded:
        reasons = shard.read_reasons(np.unique(rows))
        for place in np.flatnonzero(np.isin(rows, list(reasons))).tolist():
            yield place, reasons[int(rows[place])]


def _check_ascending(target: np.ndarray, start: int) -> None:
    wrong = np.flatnonzero(np.diff(target, prepend=-1) <= 0)
    if len(wrong):
        _refuse(start + int(target[wrong[0]]), "appears more than once")


def _check_each_once(seen: np.ndarray, start: int) -> None:
    wrong = np.flatnonzero(seen != 1)
    if len(wrong):
        what = "is missing" if seen[wrong[0]] == 0 else "appears more than once"
        _refuse(start + int(wrong[0]), what)


def _refuse(ordinal: int, what: str) -> None:
    raise IncompleteError(
        f"record {ordinal} of the input {what}; delete the dataset's shards/ folder and run again"
    )
