"""Tables in HDF5 files: columns with an entry a row, and ragged ones whose rows begin at offsets.

A merged file is one, of its records; the file of a shard has one of its sequences, with the same
columns, and one of its records.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.base.text import count
from spotesm.hdf5.checksums import checksums_at, checksums_under
from spotesm.hdf5.pieces import (
    BYTES_AT_ONCE,
    Column,
    blocks_of,
    bytes_of_row,
    column_of,
    read_rows,
    read_stretch,
)
from spotesm.request.outputs import Output, offsets_of, output_of
from spotesm.request.request import Request
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import from_bytes, keys_of

log = logging.getLogger(__name__)

DIGESTS_AT_ONCE = 1 << 20


class Table:
    """Some columns of a table in an open file; what lies in one piece is read past HDF5.

    Args:
        group: where they lie.
        names: which; those that are not there are left out.
        file: the same file, open; if none is given, it is opened once more.

    Attributes:
        columns: by name.
    """

    def __init__(
        self, group: h5py.Group, names: Iterable[str], file: BinaryIO | None = None
    ) -> None:
        self.columns: dict[str, Column] = {
            name: column_of(group[name], file) for name in names if name in group
        }

    @property
    def is_past_hdf5(self) -> bool:
        """Whether HDF5 is needed no more."""
        return not any(isinstance(column, h5py.Dataset) for column in self.columns.values())

    def read(self, name: str, start: int, end: int) -> np.ndarray:
        """Return some entries of a column, or values of a ragged one; texts as bytes.

        Raises:
            InputError: the column is too short.
        """
        return read_stretch(self.columns[name], start, end)

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the entries of ascending rows (k,)."""
        return read_rows(self.columns[name], rows)

    def read_offsets(self, output: Output, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the values of some rows begin and end, (k,) each, ascending rows.

        Raises:
            InputError: that cannot be.
        """
        offsets = self.columns[offsets_of(output)]
        starts, ends = read_rows(offsets, rows), read_rows(offsets, rows + 1)
        if (ends < starts).any():
            raise InputError(f"{offsets_of(output)} are not ascending; merge it again")
        return starts, ends

    def read_ragged(self, key: str, rows: np.ndarray) -> Ragged:
        """Return the values of ascending rows (k,), those next to each other at once."""
        starts, ends = self.read_offsets(output_of(key), rows)
        column = self.columns[key]
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        values = np.empty((int(offsets[-1]), *column.shape[1:]), column.dtype)
        apart = 1 + np.flatnonzero(starts[1:] != ends[:-1])
        for first, end in pairwise([0, *apart.tolist(), len(rows)]) if len(rows) else ():
            there = slice(offsets[first], offsets[end])
            values[there] = read_stretch(column, int(starts[first]), int(ends[end - 1]))
        return Ragged(values, offsets)

    def find_contradiction(self, request: Request, embedding_dim: int) -> str | None:
        """Return what that was asked for is not there of each row; None if all is."""
        architecture = replace(request.architecture, embedding_dim=int(embedding_dim))
        outputs = request.select()
        n = len(self.columns["digests"])
        for key in outputs.keys:
            output, column = output_of(key), self.columns[key]
            shape = output.shape(len(column) if output.ragged else n, architecture)
            if (column.shape, column.dtype) != (shape, outputs.dtype):
                return f"has {key} in another shape than it says"
            if output.ragged:
                offsets = self.columns[offsets_of(output)]
                if offsets.shape != (n + 1,):
                    return f"has no place for the values of {key}"
                if [int(read_stretch(offsets, i, i + 1)[0]) for i in (0, n)] != [0, len(column)]:
                    return f"has no place for the values of {key}"
        names = ("lengths", "windows", *map(checksums_at, outputs.keys))
        if {len(self.columns[name]) for name in names} != {n}:
            return "does not say of every record how long it is"
        return None

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST there are, (j,) ascending, and a row of each."""
        found, rows = [], []
        keys, stored = keys_of(digests), self.columns["digests"]
        for start in range(0, len(stored), DIGESTS_AT_ONCE):
            end = min(start + DIGESTS_AT_ONCE, len(stored))
            theirs = from_bytes(read_stretch(stored, start, end))
            theirs_keys = keys_of(theirs)
            order = np.argsort(theirs_keys, kind="stable")
            ranks = np.searchsorted(theirs_keys[order], keys).clip(max=len(order) - 1)
            candidates = order[ranks]
            # Of two digests that share a key one may be missed, and is computed.
            same = np.flatnonzero(theirs[candidates] == digests)
            found.append(same)
            rows.append(start + candidates[same])
        which, first = np.unique(np.concatenate(found or [[]]), return_index=True)
        return which.astype(np.int64), np.concatenate(rows or [[]]).astype(np.int64)[first]

    def read_results(self, path: Path, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what rows (k,), none of which is rejected, hold under some keys.

        In blocks of some 64 MiB. What has other values than were computed is named, and passed
        over.

        Args:
            path: of the file, for that.
            rows: ascending.
        """
        sizes = np.zeros(len(rows), np.int64)
        for key in keys:
            n_values: np.ndarray | int = 1
            if output_of(key).ragged:
                starts, ends = self.read_offsets(output_of(key), rows)
                n_values = ends - starts
            sizes += bytes_of_row(self.columns[key]) * n_values
        for block in blocks_of(np.concatenate([[0], np.cumsum(sizes)]), BYTES_AT_ONCE):
            here = rows[block]
            results = Results(
                from_bytes(self.read_rows("digests", here)),
                [None] * len(here),
                self.read_rows("windows", here),
                {k: self.read_rows(k, here) for k in keys if not output_of(k).ragged},
                {k: self.read_ragged(k, here) for k in keys if output_of(k).ragged},
            )
            whole = np.ones(len(here), bool)
            for key in keys:
                whole &= checksums_under(key, results) == self.read_rows(checksums_at(key), here)
            if not whole.all():
                damaged = count(int((~whole).sum()), "sequence")
                log.warning(
                    "reuse: %s has other values than were computed of %s; not used", path, damaged
                )
            if whole.any():
                yield results.take(np.flatnonzero(whole))
