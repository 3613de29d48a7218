"""What a merged file holds of some sequences, to be taken again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spotesm.hdf5.checksums import checksums_at
from spotesm.hdf5.format import open_checked
from spotesm.hdf5.table import Table
from spotesm.hdf5.unfit import read_unfit
from spotesm.merged.index import Index
from spotesm.request.outputs import offsets_of, output_of
from spotesm.request.request import Request
from spotesm.request.results import Results, Unusable
from spotesm.sequences.digests import as_bytes, from_bytes


class MergedFile:
    """A merged file of which results are taken again.

    Attributes:
        settings: what determined its numbers.

    Raises:
        InputError: it cannot be read, or is something else.
        Unusable: it contradicts itself; `DAMAGE` where it is damaged, whenever that is met.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = file = open_checked(path)
        self.settings = dict(json.loads(file.attrs["fingerprint"]))
        request = Request.of_attributes(file.attrs)
        outputs = request.select()
        keys = [key for key in outputs.keys if key in file]
        offsets = {offsets_of(output_of(key)) for key in outputs.ragged_keys}
        of_records = ("digests", "lengths", "windows")
        self.records = Table(file, [*of_records, *keys, *offsets, *map(checksums_at, keys)])
        self._n = len(self.records.columns["digests"])
        self._index, self._unfit = Index.of(file), read_unfit(file)
        # One without rows has no ragged outputs.
        problem = self.records.find_contradiction(request, file.attrs["embedding_dim"])
        if self._n and problem:
            raise Unusable(problem)

    def __enter__(self) -> "MergedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST it has, ascending, and a row of each, (j,).

        Rows beyond the last are those of what a device could not embed.
        """
        which, rows = self._find(digests)
        if self._unfit is None:
            return which, rows
        _, rejected, places = np.intersect1d(digests, self._unfit.digests, return_indices=True)
        which, rows = np.append(which, rejected), np.append(rows, self._n + places)
        order = np.argsort(which)
        return which[order], rows[order]

    def _find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._index is None:
            return self.records.find(digests)
        rows = self._index.rows_of_digests(as_bytes(digests))
        which = np.flatnonzero((rows >= 0) & (rows < self._n))
        which = which[np.argsort(rows[which])]
        stored = from_bytes(self.records.read_rows("digests", rows[which]))
        # The index says where, the rows say whether.
        which = np.sort(which[stored == digests[which]])
        return which, rows[which]

    def read(self, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what it holds of ascending rows (k,) under some keys: see `Table.read_results`."""
        unfit = rows[rows >= self._n] - self._n
        if len(unfit):
            yield self._unfit.take(unfit)
        yield from self.records.read_results(self.path, rows[rows < self._n], keys)
