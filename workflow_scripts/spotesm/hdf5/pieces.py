"""Datasets that lie in one piece, read past HDF5: a few bytes of a large one cost one read.

By reads, not by a memory map: where a file has become shorter, a read ends in an error, but
touching a map ends the process.
"""

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, TypeAlias

import h5py
import numpy as np

from spotesm.base.failures import InputError

BYTES_AT_ONCE = 64 << 20
GAP = 64  # rows between two that are wanted, below which all are read at once


class Piece:
    """A dataset that lies in one piece in its file, as it is in memory.

    Attributes:
        dtype, shape: of its entries, along the first axis.
    """

    def __init__(self, dataset: h5py.Dataset, file: BinaryIO | None = None) -> None:
        self.dtype, self.shape = dataset.dtype, dataset.shape
        self._path = file.name if file else dataset.file.filename
        self._offset = dataset.id.get_offset()
        # Closed with the object, unless it is somebody else's.
        self._file = file or open(self._path, "rb", buffering=0)  # noqa: SIM115
        self._row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))

    @classmethod
    def of(cls, dataset: h5py.Dataset, file: BinaryIO | None = None) -> "Piece | None":
        """Return a dataset as a piece; None if it is in chunks, empty, or has texts elsewhere.

        Args:
            file: the same file, open; if none is given, it is opened once more.
        """
        if dataset.id.get_offset() is None or not dataset.size or dataset.dtype.hasobject:
            return None
        return cls(dataset, file)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> np.ndarray:
        """Return entries `start` to `end`.

        Raises:
            InputError: the file is shorter than it says.
        """
        values = np.empty((max(0, end - start), *self.shape[1:]), self.dtype)
        self.read_into(values, start)
        return values

    def read_into(self, values: np.ndarray, start: int) -> None:
        """Fill `values`, which lie in one piece, with the entries from `start` on.

        Raises:
            InputError: the file is shorter than it says, or the dataset than another says.
        """
        if start + len(values) > len(self):
            raise InputError(f"{self._path}: a dataset is too short; copy or merge it again")
        rest = memoryview(values).cast("B") if values.nbytes else memoryview(b"")
        place = self._offset + start * self._row
        while len(rest):
            n = os.preadv(self._file.fileno(), [rest], place)
            if not n:
                raise InputError(f"{self._path}: has become shorter; copy or merge it again")
            rest, place = rest[n:], place + n


Column: TypeAlias = Piece | h5py.Dataset


def column_of(dataset: h5py.Dataset, file: BinaryIO | None = None) -> Column:
    """Return a dataset as a piece if it is one, else as it is."""
    return Piece.of(dataset, file) or dataset


def bytes_of_row(values: np.ndarray | Column) -> int:
    """Return what one entry along the first axis takes."""
    return values.dtype.itemsize * math.prod(values.shape[1:])


def blocks_of(offsets: np.ndarray, most: int) -> Iterator[slice]:
    """Yield slices of records that have `most` values together at most, or are one record.

    Args:
        offsets: (n + 1,) where the values of each begin and, last, where they end.
    """
    start = 0
    while start < len(offsets) - 1:
        fitting = int(np.searchsorted(offsets, offsets[start] + most, "right")) - 1
        stop = max(fitting, start + 1)
        yield slice(start, stop)
        start = stop


def read_stretch(column: Column, start: int, end: int) -> np.ndarray:
    """Return entries `start` to `end`.

    Raises:
        InputError: there are none.
    """
    if not 0 <= start <= end <= len(column):
        raise InputError("a dataset is too short; copy or merge it again")
    return column.read(start, end) if isinstance(column, Piece) else column[start:end]


def read_rows(column: Column, rows: np.ndarray) -> np.ndarray:
    """Read ascending rows (k,), of any dataset; those with small gaps between them at once."""
    if isinstance(column, h5py.Dataset):
        column = column_of(column)
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return read_stretch(column, int(rows[0]), int(rows[-1]) + 1)
    values = np.empty((len(rows), *column.shape[1:]), column.dtype)
    # Not more at once than fits, however many there are.
    pages = rows // max(1, BYTES_AT_ONCE // bytes_of_row(column))
    apart = (np.diff(rows) > GAP) | (np.diff(pages) > 0)
    edges = np.flatnonzero(np.concatenate([[True], apart]))[: len(rows)]
    for first, end in pairwise([*edges, len(rows)]):
        base = rows[first]
        last = rows[end - 1] + 1
        stretch = read_stretch(column, int(base), int(last))
        is_whole = last - base == end - first
        values[first:end] = stretch if is_whole else stretch[rows[first:end] - base]
    return values


def read_slice(dataset: h5py.Dataset, which: slice) -> np.ndarray:
    """Return the rows of a slice, as numpy would: h5py takes no negative steps."""
    rows = range(len(dataset))[which]
    if rows.step > 0:
        return dataset[rows.start : max(rows.start, rows.stop) : rows.step]
    rows = rows[::-1]
    values = dataset[rows.start : max(rows.start, rows.stop) : rows.step]
    return values[::-1].copy()  # torch takes no negative strides
