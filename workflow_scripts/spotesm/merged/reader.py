"""Read embeddings back: one row or many, by place or by id, without loading the file.

with Embeddings("results/demo/embeddings.h5") as embeddings:
    vector = embeddings["P12345"]
"""

import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.hdf5.format import is_damage, open_checked
from spotesm.hdf5.pieces import read_rows, read_slice
from spotesm.merged.frames import anndata_of, frame_of
from spotesm.merged.ids import TextIndex
from spotesm.merged.index import Index
from spotesm.merged.look_ups import LookUpError, did_you_mean
from spotesm.request.outputs import CONTACTS, LOGITS, OUTPUTS, RESIDUES, Key, offsets_of, output_of
from spotesm.request.request import Request
from spotesm.sequences.accessions import accession_of, without_version

if TYPE_CHECKING:
    import anndata
    import pandas
    import torch

Values: TypeAlias = "np.ndarray | torch.Tensor"
Rows: TypeAlias = slice | Sequence[int] | Sequence[str] | np.ndarray

IDS_AT_ONCE, ROWS_AT_ONCE = 1 << 16, 1 << 10
FIRST = "embeddings"  # a link to the first output with one row a record that was asked for


class Embeddings(Sequence):
    """The records of an `embeddings.h5`, in input order.

    `embeddings[i]`, `embeddings["id"]` are vectors (D,); `embeddings[10:20]`, lists and arrays of
    numbers or of ids, and masks (N,) give (k, D), as numpy would. `"id" in embeddings`, `index` and
    `count` go by id, too. Where no record has the id `P12345`, it is the accession of
    `sp|P12345|NAME`; where none has `NP_268346`, it is that of `NP_268346.1`. A map-style dataset
    for PyTorch's `DataLoader`, too: every process opens the file for itself.

    Args:
        path: the HDF5 file.
        key: which of the outputs with one row a record, such as `bos/33`; the first one that was
            asked for if None. Others have their own way: `residues`, `logits`, `contacts`.
        as_torch: return tensors instead of numpy arrays.
        accessions: whether records are found by accession, too.

    Raises:
        InputError: the file cannot be read, is none of spotESM's, or has no such output.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        key: str | None = None,
        as_torch: bool = False,
        accessions: bool = True,
    ) -> None:
        self.path = Path(path)
        self.as_torch = as_torch
        self.accessions = accessions
        self._open_file: tuple[int, h5py.File] | None = None
        try:
            self.key = self._choose_key(key)
        except InputError:
            self.close()
            raise

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
        # What reads the index belongs to this process; another opens its own.
        kept = {name: value for name, value in self.__dict__.items() if name != "_by_id"}
        return {**kept, "_open_file": None}

    # -- what there is -------------------------------------------------------------------------

    @property
    def outputs(self) -> list[str]:
        """The keys of what was computed."""
        groups = [name for name in self.file if isinstance(self.file.get(name), h5py.Group)]
        keys = [f"{group}/{name}" for group in groups for name in self.file[group]]
        return [key for key in keys if Key.parse(key)]

    @property
    def row_keys(self) -> list[str]:
        """The keys of what has one row a record."""
        return [key for key in self.outputs if not output_of(key).ragged]

    def _choose_key(self, key: str | None) -> str | None:
        """Return the key of rows; None where the file has none and none is named."""
        link = self.file.get(FIRST, getlink=True)
        first = link.path.strip("/") if isinstance(link, h5py.SoftLink) else None
        chosen = first if key in (None, FIRST) else key
        if chosen in self.row_keys or (first is None and key is None):
            return chosen
        if chosen in self.outputs:
            raise InputError(
                f"{self.path}: {chosen} has no one row a record; "
                f"{', '.join(self.row_keys) or 'no key'} has"
            )
        raise InputError(self._has_no(chosen or key, self.row_keys))

    def _has_no(self, what: object, keys: Sequence[str]) -> str:
        close = get_close_matches(str(what), keys, 1)
        return f"{self.path}: has no {what}; it has {', '.join(keys)}{did_you_mean(close)}"

    @property
    def attributes(self) -> dict:
        """What the file says about itself: model, weights, settings."""
        return dict(self.file.attrs)

    @property
    def request(self) -> Request:
        """What was asked for.

        Raises:
            InputError: the attributes that say so are damaged.
        """
        try:
            return Request.of_attributes(self.file.attrs)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: its attributes are damaged ({error})") from error

    # -- who is where --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.file["sequence_ids"])

    @property
    def ids(self) -> list[str]:
        """All ids, in input order."""
        return self.file["sequence_ids"].asstr()[:].tolist()

    def iterate_ids(self) -> Iterator[str]:
        """Yield all ids, in input order; some are in memory at a time."""
        ids = self.file["sequence_ids"].asstr()
        for start in range(0, len(self), IDS_AT_ONCE):
            yield from ids[start : start + IDS_AT_ONCE]

    @cached_property
    def _by_id(self) -> Index | TextIndex:
        # Files of before there was an index have all their ids read once.
        return Index.of(self.file) or TextIndex.of(self.iterate_ids())

    @cached_property
    def _by_accession(self) -> TextIndex:
        accessions = map(accession_of, self.iterate_ids())
        return TextIndex.of(name and without_version(name) for name in accessions)

    def rows_of(self, identifier: str) -> list[int]:
        """Return the rows of all records that have this id, in order.

        If there are none, the rows of those that have it as their accession, or as that without its
        version.
        """
        ids = self.file["sequence_ids"].asstr()
        rows = [row for row in self._by_id.candidates(identifier) if ids[row] == identifier]
        if rows or not self.accessions:
            return rows
        candidates = self._by_accession.candidates(without_version(identifier))
        found = [(row, accession_of(ids[row])) for row in candidates]
        return [row for row, name in found if identifier in (name, without_version(name))]

    def find_rows(self, identifiers: Sequence[str]) -> np.ndarray:
        """Return the row of each of many ids or accessions, (k,) int64.

        Raises:
            LookUpError: no record has one of them, or several have; a KeyError.
        """
        rows = np.full(len(identifiers), -1)
        if isinstance(self._by_id, Index):
            rows = self._by_id.rows_of_ids(identifiers)
            ascending, places = np.unique(rows[rows >= 0], return_inverse=True)
            stored = read_rows(self.file["sequence_ids"], ascending)
            texts = np.array([text.decode() for text in stored], object)[places]
            asked = np.array(identifiers, object)[rows >= 0]
            rows[np.flatnonzero(rows >= 0)[texts != asked]] = -1
        for place in np.flatnonzero(rows < 0):
            rows[place] = self.row_of(identifiers[place])
        return rows

    def row_of(self, which: int | str) -> int:
        """Return the row of a record.

        Raises:
            LookUpError: no record has this id, or several have; a KeyError.
            IndexError: there is no such row.
            TypeError: it is neither a number nor an id.
        """
        if isinstance(which, str):
            rows = self.rows_of(which)
            if len(rows) != 1:
                raise LookUpError(self, which, rows)
            return rows[0]
        if isinstance(which, bool | np.bool) or not hasattr(which, "__index__"):
            raise TypeError(f"{self.path}: a row is asked for by number or id, not {which!r}")
        return int(self._check_rows(np.array([operator.index(which)]))[0])

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self.rows_of(identifier))

    def count(self, identifier: object) -> int:
        """Return how many records have this id."""
        return len(self.rows_of(identifier)) if isinstance(identifier, str) else 0

    def index(self, identifier: object, start: int = 0, stop: int | None = None) -> int:
        """Return the first row, of `start` to `stop`, that has this id.

        Raises:
            ValueError: there is none.
        """
        inside = range(len(self))[start:stop]
        rows = self.rows_of(identifier) if isinstance(identifier, str) else []
        for row in rows:
            if row in inside:
                return row
        raise ValueError(f"{self.path}: no record there has the id {identifier!r}")

    def _check_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (k,) counted from the beginning, int64."""
        n = len(self)
        wrong = np.flatnonzero((rows < -n) | (rows >= n))
        if len(wrong):
            raise IndexError(f"{self.path}: has {n} rows, not row {rows[wrong[0]]}")
        rows = rows.astype(np.int64)
        return np.where(rows < 0, rows + n, rows)

    def _rows_at(self, which: Rows) -> np.ndarray:
        """Return the rows that a list or an array of numbers or ids, or a mask, asks for, (k,)."""
        if isinstance(which, list) and any(isinstance(one, str) for one in which):
            if all(isinstance(one, str) for one in which):
                return self.find_rows(which)
            return np.array([self.row_of(one) for one in which])
        asked = np.empty(()) if isinstance(which, tuple) else _as_array(which)
        kind = asked.dtype.kind if asked.ndim == 1 else ""
        if kind and kind in "OTU":
            return np.array([self.row_of(one) for one in asked.tolist()], np.int64)
        if kind == "b":
            if len(asked) != len(self):
                raise IndexError(f"{self.path}: has {len(self)} rows, not {len(asked)} as the mask")
            return np.flatnonzero(asked)
        if kind and kind in "iu":
            return self._check_rows(asked)
        if kind and not len(asked):  # of an empty list numpy makes floats
            return np.empty(0, np.int64)
        raise TypeError(
            f"{self.path}: rows are asked for by number, id, slice, mask, or a list of numbers or "
            f"ids, not {which!r}"
        )

    # -- values ----------------------------------------------------------------------------------

    @property
    def _row_key(self) -> str:
        if self.key is None:
            raise InputError(
                f"{self.path}: has no output with one row a record, but {', '.join(self.outputs)}"
            )
        return self.key

    def __getitem__(self, which: int | str | Rows) -> Values:
        rows = self.file[self._row_key]
        if isinstance(which, slice):
            return self._give(read_slice(rows, which))
        if isinstance(which, str) or _as_array(which).ndim == 0:
            return self._give(rows[self.row_of(which)])
        wanted = self._rows_at(which)
        ascending, places = np.unique(wanted, return_inverse=True)  # as h5py wants them
        return self._give(rows[ascending][places])

    def __iter__(self) -> Iterator[Values]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self[start : start + ROWS_AT_ONCE]

    def residues(self, which: int | str, layer: int | None = None) -> Values:
        """Return the vectors of a record's residues, (l, D).

        Args:
            layer: as the file numbers it; may be left out if the file has one alone.
        """
        layers = [key for key in self.outputs if output_of(key).name == RESIDUES]
        if not layers:
            raise InputError(self._has_no(RESIDUES, self.outputs))
        if layer is None and len(layers) > 1:
            raise InputError(f"{self.path}: has {', '.join(layers)}; name a layer")
        key = layers[0] if layer is None else OUTPUTS[RESIDUES].key(layer)
        return self._ragged(key, which)

    def logits(self, which: int | str) -> Values:
        """Return the logits of a record's residues, (l, V): 33 of ESM-2, 64 of ESM C."""
        return self._ragged(OUTPUTS[LOGITS].key(), which)

    @property
    def alphabet(self) -> list[str]:
        """What the columns of logits stand for, `<cls>` to `<mask>`."""
        if LOGITS not in self.file:
            raise InputError(self._has_no(LOGITS, self.outputs))
        return list(self.file[LOGITS].attrs["alphabet"])

    def contacts(self, which: int | str) -> Values:
        """Return a record's contact probabilities, (windows, w, w): one map for each window."""
        row = self.row_of(which)
        values = self._ragged(OUTPUTS[CONTACTS].key(), row)
        windows = int(self.file["windows"][row])
        side = round((len(values) / windows) ** 0.5)
        return values.reshape(windows, side, side)

    def value(self, key: str, which: int | str) -> Values:
        """Return any one output of a record: (D,), (l, D), (l, V), or (windows, w, w)."""
        if key not in self.outputs:
            raise InputError(self._has_no(key, self.outputs))
        output = output_of(key)
        if output.name == CONTACTS:
            return self.contacts(which)
        if output.ragged:
            return self._ragged(key, which)
        return self._give(self.file[key][self.row_of(which)])

    def to_pandas(self) -> "pandas.DataFrame":
        """Return all rows, (N, D), named by id."""
        return frame_of(self.file, self._row_key)

    def to_anndata(self) -> "anndata.AnnData":
        """Return all rows as X, others with one row a record in obsm, attributes in uns."""
        return anndata_of(self.file, self._row_key, self.row_keys)

    def _ragged(self, key: str, which: int | str) -> Values:
        if key not in self.outputs:
            raise InputError(self._has_no(key, self.outputs))
        row = self.row_of(which)
        start, end = self.file[offsets_of(output_of(key))][row : row + 2]
        return self._give(self.file[key][start:end])

    def _give(self, values: np.ndarray) -> Values:
        if not self.as_torch:
            return values
        import torch  # a second that those who want numpy need not spend

        return torch.from_numpy(values)


@contextmanager
def opened(path: Path, key: str | None = None) -> Iterator[Embeddings]:
    """Open a file for a command, to which damage met on the way is an error of the user's.

    Raises:
        InputError: as `Embeddings` does, or, in the block, the file turns out to be damaged.
    """
    with Embeddings(path, key) as embeddings:
        try:
            yield embeddings
        except (OSError, RuntimeError, KeyError) as error:
            if not is_damage(error):
                raise
            raise InputError(f"{path}: is damaged ({error}); merge it again") from error


def _as_array(which: object) -> np.ndarray:
    try:
        return np.asarray(which)
    except ValueError:  # of a ragged list
        return np.empty(())
