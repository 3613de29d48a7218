"""The records of several shards, gathered block by block in input order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from spotesm.base.failures import IncompleteError, InputError, explain_host_fault
from spotesm.hdf5.checksums import list_checksums
from spotesm.hdf5.format import DAMAGE, open_hdf5
from spotesm.hdf5.pieces import Piece, bytes_of_row
from spotesm.request.request import Request
from spotesm.sequences.reasons import Reason
from spotesm.sequences.rejected import EMBED, TRANSLATE, Rejected, read_rejected
from spotesm.shards.shard_file import REUSED, read_rejections, read_spans

BLOCK_BYTES = 64 << 20
LEAST_BYTES_OF_RECORD = 256  # about what its id, digest and place take
MORE_THAN_EXPECTED = 64
RECORD_COLUMNS = ("sequence_ids", "lengths", "digests", "windows")
ID_KEYS = "id_keys"
COMMON_ATTRIBUTES = (
    *(field.name for field in fields(Request)),
    "fingerprint",
    "weights",
    "weights_sha256",
    "embedding_dim",
)
NOT_WHOLE = (
    "{}: not a whole shard file; delete it and run again: its results are kept among the "
    "checkpoints"
)


class ShardRows:
    """The rows of a shard's file, read past HDF5 where they lie in one piece.

    HDF5 takes half a MiB for an open file, so it is closed where nothing else needs it.

    Attributes:
        path: the file.
        attributes: of the file.
        common: those that all shards have the same.
        n: its records.
        row_keys: of its outputs of a vector each.
        ragged: the datasets of the others, by key.
        spans: see `read_spans`.
        origins: the earlier files that its records were taken from.
        columns: what is said of each record, by name.
        file: the open file, if there is more than rows: ragged values, texts, parts of chunks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Parts of chunks are read as they are: a cache would read whole ones, and stay.
            self.file = open_hdf5(path, rdcc_nbytes=0)
            self.attributes = dict(self.file.attrs)
            self.common = {name: self.attributes[name] for name in COMMON_ATTRIBUTES}
            self.n = len(self.file["ordinals"])
            self.all_embedded = self.attributes["n_embedded"] == self.n
            self.row_keys = list(self.attributes["row_keys"])
            self.ragged = {key: self.file[key] for key in self.attributes["ragged_keys"]}
            self.spans = read_spans(self.file)
            self.origins = self.attributes["reused_from"].tolist() if REUSED in self.file else []
            # What goes into the merged file as it is.
            self.names = [*RECORD_COLUMNS, *list_checksums(self.file), *self.row_keys]
            self._raw = open(path, "rb", buffering=0)  # noqa: SIM115
            more = [REUSED] if self.origins else []
            names = ("ordinals", ID_KEYS, *self.names, *more)
            datasets = {name: self.file[name] for name in names}
            self.columns = {
                name: Piece.of(dataset, self._raw) or dataset for name, dataset in datasets.items()
            }
        except DAMAGE as error:
            if explain_host_fault(error):
                raise
            raise IncompleteError(NOT_WHOLE.format(path)) from error
        are_pieces = all(isinstance(column, Piece) for column in self.columns.values())
        if are_pieces and self.all_embedded and not self.ragged:
            self.file.close()

    def __enter__(self) -> "ShardRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self.file.close()

    def read(self, name: str, start: int, end: int) -> np.ndarray:
        """Return what one column says of some records; ids as bytes."""
        column = self.columns[name]
        try:
            return column.read(start, end) if isinstance(column, Piece) else column[start:end]
        except InputError as error:  # shorter than it says
            raise IncompleteError(NOT_WHOLE.format(self.path)) from error

    def read_ordinals(self, start: int, below: int, about: int) -> np.ndarray:
        """Return the ordinals, from the record `start` on, that are below one.

        Args:
            about: how many are expected.
        """
        found, end = [], start
        while end < self.n:
            block = self.read("ordinals", end, min(end + about + MORE_THAN_EXPECTED, self.n))
            found.append(block[: np.searchsorted(block, below)])
            end += len(found[-1])
            if len(found[-1]) < len(block):
                break
        return np.concatenate(found or [np.empty(0, np.int64)])


@dataclass(frozen=True)
class Block:
    """A stretch of the input: its embedded records, r in all, and the rejected ones.

    Attributes:
        shards: (r,) which shard each record is in, and
        places: (r,) as which of its records.
        columns: by dataset of the shards, what is known of each embedded record, (r, ...); ids are
            bytes. What comes next is read into the same memory.
        rejected: the others, ascending.
        unfit: of those rejected for their device's sake, digest and reason.
    """

    shards: np.ndarray
    places: np.ndarray
    columns: dict[str, np.ndarray]
    rejected: list[Rejected]
    unfit: list[tuple[np.ndarray, Reason]]


class Gatherer:
    """Reads the records of all shards in input order; every ordinal exactly once.

    Args:
        n_records: how many the input has.

    Attributes:
        buffers: one block of each column but those of places, of the type that holds the values
            of each shard.
    """

    def __init__(self, shards: Sequence[ShardRows], n_records: int) -> None:
        self.shards = shards
        self.n_records = n_records
        self.positions = [0] * len(shards)
        first = shards[0]
        row = sum(bytes_of_row(first.columns[key]) for key in first.row_keys)
        self.block_rows = min(n_records, max(1, BLOCK_BYTES // max(row, LEAST_BYTES_OF_RECORD)))
        self.buffers = {
            name: np.empty((self.block_rows, *first.columns[name].shape[1:]), self._type_of(name))
            for name in first.names
        }
        self.buffers[ID_KEYS] = np.empty(self.block_rows, np.uint64)

    def _type_of(self, name: str) -> np.dtype:
        types = [shard.columns[name].dtype for shard in self.shards]
        return max(types, key=lambda dtype: (dtype.hasobject, dtype.itemsize))

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
        if reject is not None or self.positions != [shard.n for shard in self.shards]:
            raise IncompleteError(
                f"there are records beyond the {self.n_records} that split_fasta counted"
            )

    def _gather(self, start: int, size: int, rejected: list[Rejected]) -> Block:
        """Collect the ordinals from `start` on; moves `positions` past the rows taken."""
        columns = {name: buffer[:size] for name, buffer in self.buffers.items()}
        shard_of, place_of = np.zeros(size, np.int64), np.zeros(size, np.int64)
        seen = np.bincount([record.ordinal - start for record in rejected], minlength=size)
        embedded = seen == 0
        unsure = []
        for number, shard in enumerate(self.shards):
            first = self.positions[number]
            target = shard.read_ordinals(first, start + size, size // len(self.shards)) - start
            end = self.positions[number] = first + len(target)
            if first == end:
                continue
            _check_ascending(target, start)
            seen[target] += 1
            shard_of[target], place_of[target] = number, np.arange(first, end)
            for name, column in columns.items():
                column[target] = shard.read(name, first, end)
            if not shard.all_embedded:
                unsure.append((target, read_rejections(shard.file, slice(first, end))))
        _check_each_once(seen, start)
        unfit = []
        for target, reasons in unsure:
            for place, reason in enumerate(reasons):
                if reason:
                    ordinal = int(target[place])
                    embedded[ordinal] = False
                    identifier = columns["sequence_ids"][ordinal].decode()
                    found = (start + ordinal, identifier, EMBED, reason.keyword, reason.detail)
                    rejected.append(Rejected(*found))
                    if reason.device:
                        unfit.append((columns["digests"][ordinal].copy(), reason))
        if not embedded.all():
            columns = {name: column[embedded] for name, column in columns.items()}
            shard_of, place_of = shard_of[embedded], place_of[embedded]
        self._check_values(columns, f"records {start} to {start + size - 1}")
        return Block(shard_of, place_of, columns, sorted(rejected), unfit)

    def _check_values(self, columns: dict[str, np.ndarray], which: str) -> None:
        if (columns["windows"] < 1).any():
            raise IncompleteError(f"one of the {which} has no result")
        for key in self.shards[0].row_keys:
            if not np.isfinite(columns[key]).all():
                raise IncompleteError(f"a value of {which} is not finite")


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
