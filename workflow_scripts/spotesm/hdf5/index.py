"""The index in a merged file: which rows have an id or a digest, found without reading the rest.

Datasets, ascending by key: `index/digest_keys` (u,) uint64, the first 8 bytes of each different
digest as a big-endian number, and `index/digest_rows` (u,), the first row that has it;
`index/id_keys` (n,) uint64, 8 bytes of the blake2b-128 of each id, and `index/id_rows` (n,). Keys
of different ids may be equal, so what is found is a candidate.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from spotesm.hdf5.mapping import map_dataset
from spotesm.sequences.digests import hash_text

KEY_BYTES = 8
ROWS_AT_ONCE = 1 << 20
_ENTRY = np.dtype(f"V{2 * KEY_BYTES}")  # key and row, big-endian: sorted by key, then by row


class IndexWriter:
    """Collects keys on disk, so that hundreds of millions of rows need no memory.

    Args:
        folder: where temporary files may lie.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._files: dict[str, BinaryIO] = {
            name: self._stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
            for name in ("digest", "id")
        }
        self._n_rows = 0

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, ids: Sequence[str], digests: np.ndarray) -> None:
        """Take the next rows.

        Args:
            digests: (k, 16) uint8.
        """
        rows = np.arange(self._n_rows, self._n_rows + len(ids), dtype=">u8")
        keys = {
            "digest": digests[:, :KEY_BYTES],
            "id": np.frombuffer(b"".join(map(hash_text, ids)), np.uint8).reshape(-1, KEY_BYTES),
        }
        for name, file in self._files.items():
            row_bytes = rows.view(np.uint8).reshape(-1, KEY_BYTES)
            file.write(np.hstack([keys[name], row_bytes]).tobytes())
        self._n_rows += len(ids)

    def write(self, file: h5py.File) -> None:
        """Sort, and write the datasets."""
        row_type = np.uint32 if self._n_rows < 1 << 32 else np.uint64
        for name, entries in self._files.items():
            entries.flush()
            if not self._n_rows:
                keys = file.create_dataset(f"index/{name}_keys", 0, np.uint64)
                file.create_dataset(f"index/{name}_rows", 0, row_type)
                continue
            ordered = np.memmap(entries, _ENTRY, "r+")
            ordered.sort()
            blocks = range(0, len(ordered), ROWS_AT_ONCE)
            total = len(ordered)
            if name == "digest":
                total = sum(int(_first_of_key(ordered, start).sum()) for start in blocks)
            keys = file.create_dataset(f"index/{name}_keys", total, np.uint64)
            rows = file.create_dataset(f"index/{name}_rows", total, row_type)
            end = 0
            for start in blocks:
                block = ordered[start : start + ROWS_AT_ONCE]
                if name == "digest":
                    block = block[_first_of_key(ordered, start)]
                pairs = np.frombuffer(block.tobytes(), ">u8").reshape(-1, 2)
                keys[end : end + len(pairs)] = pairs[:, 0]
                rows[end : end + len(pairs)] = pairs[:, 1]
                end += len(pairs)


def _first_of_key(ordered: np.ndarray, start: int) -> np.ndarray:
    """Return which entries of a block begin a new key, (k,) bool."""
    keys = np.frombuffer(ordered[max(0, start - 1) : start + ROWS_AT_ONCE].tobytes(), ">u8")[::2]
    new = np.diff(keys) != 0
    return new if start else np.concatenate([[True], new])


class Index:
    """The index of an open merged file; None where it has none (`Index.of`)."""

    def __init__(self, keys: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
        self._keys = keys
        self._rows = rows

    @classmethod
    def of(cls, file: h5py.File) -> "Index | None":
        """Map the index of a file."""
        if "index" not in file:
            return None
        keys, rows = {}, {}
        for name in ("digest", "id"):
            keys[name], rows[name] = (
                mapped if (mapped := map_dataset(dataset)) is not None else dataset[:]
                for dataset in (file[f"index/{name}_keys"], file[f"index/{name}_rows"])
            )
        return cls(keys, rows)

    def candidates(self, identifier: str) -> list[int]:
        """Return the rows that may have an id, ascending: other ids may share its key."""
        key = np.uint64(int.from_bytes(hash_text(identifier), "big"))
        first, end = (np.searchsorted(self._keys["id"], key, side) for side in ("left", "right"))
        return self._rows["id"][first:end].tolist()  # ascending, as equal keys were sorted by row

    def rows_of_digests(self, digests: np.ndarray) -> np.ndarray:
        """Return a row, (k,) int64, that may have each digest (k, 16) uint8; -1 where none has."""
        keys = self._keys["digest"]
        if not len(keys):
            return np.full(len(digests), -1)
        wanted = np.ascontiguousarray(digests[:, :KEY_BYTES]).view(">u8")[:, 0].astype(np.uint64)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[places] == wanted, self._rows["digest"][places].astype(np.int64), -1)
