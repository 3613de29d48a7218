"""HDF5 files on disks that may be full: HDF5 itself may crash when it closes one it cannot write.

So what HDF5 writes passes through here. A write that fails is remembered, and from then on HDF5
writes into nothing, so that it can close what it has open; the fault is raised to those who write.
"""

import os
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np


class _Sink:
    """The file object that HDF5 writes into.

    Attributes:
        fault: of the first write that failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault: OSError | None = None
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 closed by `close`

    def write(self, data: memoryview) -> int:
        """Write all of it, or remember why not."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.fault is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._remember(error)
        return size

    def write_at(self, place: int, data: memoryview) -> None:
        """Write all of it at a place that HDF5 leaves alone, or raise why not."""
        try:
            while len(data):
                n = os.pwrite(self._file.fileno(), data, place)
                data, place = data[n:], place + n
        except OSError as error:
            self._remember(error)
            raise

    def read_at(self, place: int, data: memoryview) -> None:
        """Read what was written there; zeros beyond the end."""
        n = os.preadv(self._file.fileno(), [data], place)
        data[n:] = bytes(len(data) - n)

    def truncate(self, size: int) -> int:
        """Give the file its length, or remember why not."""
        try:
            if self.fault is None:
                self._file.truncate(size)
        except OSError as error:
            self._remember(error)
        return size

    def _remember(self, error: OSError) -> None:
        error.filename = str(self.path)
        self.fault = error

    def readinto(self, buffer: memoryview) -> int:
        """Read what was written; zeros beyond the end."""
        view = memoryview(buffer).cast("B")
        n = self._file.readinto(view) or 0
        view[n:] = bytes(len(view) - n)
        return len(view)

    def read(self, size: int) -> bytes:
        """Read what was written; by this h5py knows a file object."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Allocated:
    """A dataset in one piece, written past HDF5 in any order; what is never written is zeros.

    HDF5 takes a tenth of a millisecond to write a row, and many rows in no order take as long.
    """

    def __init__(
        self, file: "WrittenFile", name: str, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dataset = file.create_dataset(name, shape, dtype, fill_time="never", dcpl=properties)
        self.dtype, self.shape = dataset.dtype, dataset.shape
        self._sink = file.sink
        self._offset = dataset.id.get_offset()
        self._row = dataset.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def write(self, start: int, values: np.ndarray) -> None:
        """Write entries from `start` on.

        Raises:
            OSError: they cannot be written.
        """
        if values.size:
            data = memoryview(np.ascontiguousarray(values, self.dtype)).cast("B")
            self._sink.write_at(self._offset + start * self._row, data)

    def write_rows(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write the entries of rows (k,), in any order; those next to each other at once."""
        edges = [0, *(1 + np.flatnonzero(np.diff(rows) != 1)).tolist(), len(rows)]
        for first, end in pairwise(edges):
            self.write(int(rows[first]), values[first:end])

    def read(self, start: int, end: int) -> np.ndarray:
        """Return entries that were written."""
        values = np.empty((end - start, *self.shape[1:]), self.dtype)
        if values.size:
            self._sink.read_at(self._offset + start * self._row, memoryview(values).cast("B"))
        return values


class WrittenFile(h5py.File):
    """A new HDF5 file; whoever writes much into it asks `check` now and then.

    Attributes:
        sink: what it is written into.

    Raises:
        OSError: on leaving its `with` block, if something could not be written.
    """

    def __init__(self, path: Path) -> None:
        self.sink = _Sink(path)
        super().__init__(self.sink, "w")

    def check(self) -> None:
        """Raise the fault of the first write that failed."""
        if self.sink.fault is not None:
            raise self.sink.fault

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.sink.close()
        self.check()  # the cause of whatever error there may be, which has read what is not there
