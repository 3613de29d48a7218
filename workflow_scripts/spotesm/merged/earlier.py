"""What an earlier file holds of some sequences: a merged one, or that of a shard."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.hdf5.checksums import checksums_at
from spotesm.hdf5.format import DAMAGE, open_checked
from spotesm.hdf5.table import Table
from spotesm.hdf5.unfit import read_unfit
from spotesm.merged.index import Index
from spotesm.request.outputs import offsets_of, output_of
from spotesm.request.request import Request
from spotesm.request.results import Results
from spotesm.sequences.digests import as_bytes, from_bytes
from spotesm.shards.shard_file import DamagedShard, ShardFile


class UnfitFile(Exception):
    """An earlier file that must not be used; says why."""


class MergedFile:
    """A merged file of which results are taken again.

    Attributes:
        settings: what determined its numbers.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.settings = dict(json.loads(file.attrs["fingerprint"]))
        request = Request.of_attributes(file.attrs)
        outputs = request.select()
        keys = [key for key in outputs.keys if key in file]
        offsets = {offsets_of(output_of(key)) for key in outputs.ragged_keys}
        of_records = ("digests", "lengths", "windows")
        self.records = Table(file, [*of_records, *keys, *offsets, *map(checksums_at, keys)])
        self._file, self._index = file, Index.of(file)
        problem = self.records.find_contradiction(request, file.attrs["embedding_dim"])
        if keys and problem:  # one without rows has no ragged outputs
            raise UnfitFile(problem)

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST it has, ascending, and a row of each, (j,)."""
        if self._index is None:
            return self.records.find(digests)
        rows = self._index.rows_of_digests(as_bytes(digests))
        which = np.flatnonzero((rows >= 0) & (rows < len(self.records.columns["digests"])))
        which = which[np.argsort(rows[which])]
        stored = from_bytes(self.records.read_rows("digests", rows[which]))
        # The index says where, the rows say whether.
        which = np.sort(which[stored == digests[which]])
        return which, rows[which]

    def read_rejected(self) -> Results | None:
        """Return what it says of sequences that a device could not embed."""
        return read_unfit(self._file)

    def read(self, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what it holds of some records under some keys; see `Table.read_results`."""
        return self.records.read_results(self.path, rows, keys)


@contextmanager
def open_earlier(path: Path, of_shard: bool = False) -> Iterator[MergedFile | ShardFile]:
    """Open an earlier file, merged or of a shard.

    Raises:
        UnfitFile: it cannot be read, or is something else; or, in the block, is damaged.
    """
    try:
        if of_shard:
            with ShardFile(path) as shard:
                problem = shard.sequences.find_contradiction(
                    shard.request, shard.attributes["embedding_dim"]
                )
                if problem:
                    raise UnfitFile(problem)
                yield shard
        else:
            with open_checked(path) as file:
                yield MergedFile(path, file)
    except InputError as error:
        raise UnfitFile(str(error).removeprefix(f"{path}: ").partition("; ")[0]) from error
    except DamagedShard as error:
        raise UnfitFile(str(error)) from error
    except DAMAGE as error:
        raise UnfitFile(f"cannot be read, or is damaged ({error})") from error
