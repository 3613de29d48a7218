"""Datasets that lie in one piece, read past HDF5: a few bytes of a large one cost one read.

By reads, not by a memory map: where a file has become shorter, a read ends in an error, but
touching a map ends the process.
"""

import os

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.hdf5.writing import WrittenFile


class Piece:
    """A dataset that lies in one piece in its file, as it is in memory.

    Attributes:
        dtype, shape: of its entries, along the first axis.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dtype, self.shape = dataset.dtype, dataset.shape
        self._path = dataset.file.filename
        self._offset = dataset.id.get_offset()
        self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 closed with the object
        self._row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "Piece | None":
        """Return a dataset as a piece; None if it is in chunks, empty, or has texts elsewhere."""
        if dataset.id.get_offset() is None or not dataset.size or dataset.dtype.hasobject:
            return None
        return None if isinstance(dataset.file, WrittenFile) else cls(dataset)

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
        """Fill `values`, which lie in one piece, with the entries from `start` on."""
        rest = memoryview(values).cast("B") if values.nbytes else memoryview(b"")
        place = self._offset + start * self._row
        while len(rest):
            n = os.preadv(self._file.fileno(), [rest], place)
            if not n:
                raise InputError(f"{self._path}: has become shorter; copy or merge it again")
            rest, place = rest[n:], place + n
