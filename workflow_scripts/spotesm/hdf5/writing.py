"""HDF5 files on disks that may be full: HDF5 itself may crash when it closes one it cannot write.

So what HDF5 writes passes through here. A write that fails is remembered, and from then on HDF5
writes into nothing, so that it can close what it has open; the fault is raised to those who write.
"""

import os
from pathlib import Path

import h5py


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


class WrittenFile(h5py.File):
    """A new HDF5 file; whoever writes much into it asks `check` now and then.

    Raises:
        OSError: on leaving its `with` block, if something could not be written.
    """

    def __init__(self, path: Path) -> None:
        self._sink = _Sink(path)
        super().__init__(self._sink, "w")

    def check(self) -> None:
        """Raise the fault of the first write that failed."""
        if self._sink.fault is not None:
            raise self._sink.fault

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._sink.close()
        self.check()  # the cause of whatever error there may be, which has read what is not there
