"""Read embeddings back: one row or many, by place or by id, without loading the file.

with Embeddings("results/demo/embeddings.h5") as embeddings:
    vector = embeddings["P12345"]
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.hdf5.format import FORMAT, FORMAT_VERSION
from spotesm.request.outputs import CONTACTS, LOGITS, OUTPUTS, RESIDUES, Key, offsets_of, output_of
from spotesm.request.request import Request
from spotesm.sequences.digests import hash_text

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "np.ndarray | torch.Tensor"

_IDS_AT_ONCE, _ROWS_AT_ONCE = 1 << 16, 1 << 10


class Embeddings(Sequence):
    """The records of an `embeddings.h5`, in input order.

    `embeddings[i]`, `embeddings["id"]` are vectors (D,), `embeddings[10:20]` and
    `embeddings[[3, 1, 4]]` are (k, D). A map-style dataset for PyTorch's `DataLoader`, too: every
    process opens the file for itself.

    Args:
        path: the HDF5 file.
        key: which of the outputs with one row a record, such as `bos/33`; the first one that was
            asked for if None.
        as_torch: return tensors instead of numpy arrays.

    Raises:
        InputError: the file cannot be read, is none of spotESM's, or has no such output.
    """

    def __init__(
        self, path: str | os.PathLike, key: str | None = None, as_torch: bool = False
    ) -> None:
        self.path = Path(path)
        self.as_torch = as_torch
        self._open_file: tuple[int, h5py.File] | None = None
        self._index: tuple[np.ndarray, np.ndarray] | None = None
        self.key = key or ("embeddings" if "embeddings" in self.file else None)
        if key and key not in self.file:
            raise InputError(f"{path}: has no {key}; it has {', '.join(self.outputs)}")

    @property
    def file(self) -> h5py.File:
        """The open HDF5 file; every process has its own."""
        if self._open_file is None or self._open_file[0] != os.getpid():
            self._open_file = (os.getpid(), open_checked(self.path))
        return self._open_file[1]

    def close(self) -> None:
        """Close the file; using it again opens it again."""
        if self._open_file is not None:
            self._open_file[1].close()
            self._open_file = None

    def __enter__(self) -> "Embeddings":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open_file": None}

    # -- what there is -------------------------------------------------------------------------

    @property
    def outputs(self) -> list[str]:
        """The keys of what was computed."""
        groups = [group for group in self.file if isinstance(self.file[group], h5py.Group)]
        keys = [f"{group}/{name}" for group in groups for name in self.file[group]]
        return [key for key in keys if Key.parse(key)]

    @property
    def attributes(self) -> dict:
        """What the file says about itself: model, weights, settings."""
        return dict(self.file.attrs)

    @property
    def request(self) -> Request:
        """What was asked for."""
        return Request.of_attributes(self.file.attrs)

    def __len__(self) -> int:
        return len(self.file["sequence_ids"])

    @property
    def ids(self) -> list[str]:
        """All ids, in input order."""
        return self.file["sequence_ids"].asstr()[:].tolist()

    def rows_of(self, identifier: str) -> list[int]:
        """Return the rows of all records that have this id, in order."""
        hashes, order = self._hashed_ids()
        wanted = _hash_of(identifier)
        first, end = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        ids = self.file["sequence_ids"].asstr()
        return [row for row in np.sort(order[first:end]).tolist() if ids[row] == identifier]

    def row_of(self, which: int | str) -> int:
        """Return the row of a record.

        Raises:
            KeyError: no record has this id, or several have.
            IndexError: there is no such row.
        """
        if isinstance(which, str):
            rows = self.rows_of(which)
            if len(rows) != 1:
                how_many = f"{len(rows)} records have" if rows else "no record has"
                raise KeyError(f"{self.path}: {how_many} the id {which!r}; see rows_of")
            return rows[0]
        if not -len(self) <= which < len(self):
            raise IndexError(f"{self.path}: has {len(self)} rows, not row {which}")
        return int(which) % len(self)

    def _hashed_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes of all ids, ascending, and whose they are: 16 bytes a record."""
        if self._index is None:
            hashes = np.empty(len(self), np.uint64)
            for start in range(0, len(self), _IDS_AT_ONCE):
                block = self.file["sequence_ids"].asstr()[start : start + _IDS_AT_ONCE]
                hashes[start : start + len(block)] = [_hash_of(identifier) for identifier in block]
            order = np.argsort(hashes, kind="stable")
            self._index = hashes[order], order
        return self._index

    # -- values ----------------------------------------------------------------------------------

    def __getitem__(self, which: int | str | slice | Sequence[int]) -> Values:
        if self.key is None:
            raise InputError(f"{self.path}: has no output with one row a record: {self.outputs}")
        rows = self.file[self.key]
        if isinstance(which, slice) and (which.step or 1) > 0:
            return self._give(rows[which])
        if isinstance(which, int | np.integer | str):
            return self._give(rows[self.row_of(which)])
        wanted = np.arange(len(self))[which]
        ascending, places = np.unique(wanted, return_inverse=True)  # as h5py wants them
        return self._give(rows[ascending][places])

    def __iter__(self) -> Iterator[Values]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self[start : start + _ROWS_AT_ONCE]

    def residues(self, which: int | str, layer: int | None = None) -> Values:
        """Return the vectors of a record's residues, (l, D).

        Args:
            layer: as the file numbers it; may be left out if the file has one alone.
        """
        layers = [key for key in self.outputs if output_of(key).name == RESIDUES]
        if layer is None and len(layers) > 1:
            raise InputError(f"{self.path}: has {', '.join(layers)}; name a layer")
        key = layers[0] if layer is None and layers else OUTPUTS[RESIDUES].key(layer)
        return self._ragged(key, which)

    def logits(self, which: int | str) -> Values:
        """Return the logits of a record's residues over fair-esm's alphabet, (l, 33)."""
        return self._ragged(OUTPUTS[LOGITS].key(), which)

    def contacts(self, which: int | str) -> Values:
        """Return a record's contact probabilities, (windows, w, w): one map for each window."""
        windows = int(self.file["windows"][self.row_of(which)])
        values = self._ragged(OUTPUTS[CONTACTS].key(), which)
        side = round((len(values) / windows) ** 0.5)
        return values.reshape(windows, side, side)

    def value(self, key: str, which: int | str) -> Values:
        """Return any one output of a record: (D,), (l, D), (l, 33), or (windows, w, w)."""
        output = output_of(key)
        if output.name == CONTACTS:
            return self.contacts(which)
        if output.ragged:
            return self._ragged(key, which)
        return self._give(self.file[key][self.row_of(which)])

    def _ragged(self, key: str, which: int | str) -> Values:
        if key not in self.file:
            raise InputError(f"{self.path}: has no {key}; it has {', '.join(self.outputs)}")
        row = self.row_of(which)
        start, end = self.file[offsets_of(output_of(key))][row : row + 2]
        return self._give(self.file[key][start:end])

    def _give(self, values: np.ndarray) -> Values:
        if not self.as_torch:
            return values
        import torch  # a second that those who want numpy need not spend

        return torch.from_numpy(values)


def _hash_of(identifier: str) -> np.uint64:
    return np.uint64(int.from_bytes(hash_text(identifier), "little"))


def open_checked(path: Path) -> h5py.File:
    """Open a dataset's HDF5 file.

    Raises:
        InputError: it cannot be read, is none of spotESM's, or of a format we do not know.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name an embeddings.h5") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as HDF5 ({error}); name an embeddings.h5"
        ) from error
    found = file.attrs.get("format"), file.attrs.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        file.close()
        raise InputError(
            f"{path}: not a file of spotESM's format {FORMAT_VERSION}; name an embeddings.h5"
        )
    return file
