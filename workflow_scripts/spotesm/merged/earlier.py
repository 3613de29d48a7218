"""What an earlier file holds of some sequences: a merged one, or that of a shard."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from spotesm.base.failures import InputError
from spotesm.base.text import count
from spotesm.hdf5.checksums import checksums_at, checksums_under
from spotesm.hdf5.format import DAMAGE, open_checked, open_hdf5
from spotesm.hdf5.pieces import BYTES_AT_ONCE, blocks_of, bytes_of_row, read_rows
from spotesm.hdf5.unfit import read_unfit
from spotesm.merged.index import Index
from spotesm.request.outputs import Outputs, offsets_of, output_of
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import as_bytes, from_bytes, keys_of
from spotesm.sequences.reasons import Reason
from spotesm.shards.shard_file import group_of, read_rejections
from spotesm.weights.architectures import ARCHITECTURES

log = logging.getLogger(__name__)

DIGESTS_AT_ONCE = 1 << 20


class UnfitFile(Exception):
    """An earlier file that must not be used; says why."""


class EarlierFile:
    """A merged file, or that of a shard, of which results are taken again.

    Attributes:
        settings: what determined its numbers.
    """

    def __init__(self, path: Path, file: h5py.File, of_shard: bool) -> None:
        self.path = path
        self.file = file
        self.of_shard = of_shard
        self.settings = dict(json.loads(file.attrs["fingerprint"]))

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST, ascending, it has, and a row of each, (j,)."""
        index = None if self.of_shard else Index.of(self.file)
        if index is not None:
            rows = index.rows_of_digests(as_bytes(digests))
            which = np.flatnonzero((rows >= 0) & (rows < len(self.file["digests"])))
            which = which[np.argsort(rows[which])]
            stored = read_rows(self.file["digests"], rows[which])
            # The index says where, the rows say whether.
            which = np.sort(which[(stored == as_bytes(digests[which])).all(1)])
            return which, rows[which]
        found, rows = [], []
        keys, stored = keys_of(digests), self.file["digests"]
        for start in range(0, len(stored), DIGESTS_AT_ONCE):
            theirs = from_bytes(stored[start : start + DIGESTS_AT_ONCE])
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

    def read_rejected(self) -> Results | None:
        """Return what a merged file says of sequences that a device could not embed."""
        return None if self.of_shard else read_unfit(self.file)

    def read(
        self,
        digests: np.ndarray,
        lengths: np.ndarray,
        rows: np.ndarray,
        outputs: Outputs,
        keys: Sequence[str],
    ) -> Iterator[Results]:
        """Yield what it holds of some sequences under some keys, in blocks of some 64 MiB.

        Args:
            digests: (k,) DIGEST of the sequences.
            lengths: (k,) residues of each.
            rows: (k,) a row of each, as `find` has it.
            outputs: the type that values become is theirs.

        Raises:
            UnfitFile: it contradicts itself.
        """
        self._check_shapes(keys)
        order = np.argsort(rows)
        digests, lengths, rows = digests[order], lengths[order], rows[order]
        spans = {key: self._read_spans(key, rows) for key in keys if output_of(key).ragged}
        for block in self._in_blocks(keys, len(rows), spans):
            here = rows[block]
            if (read_rows(self.file["lengths"], here) != lengths[block]).any():
                raise UnfitFile("has lengths that are not those of its sequences")
            found = Results(
                digests[block],
                self._read_reasons(here),
                read_rows(self.file["windows"], here),
                {key: read_rows(self.file[key], here) for key in keys if key not in spans},
                {
                    key: self._read_ragged(key, starts[block], sizes[block])
                    for key, (starts, sizes) in spans.items()
                },
            )
            whole = self._find_whole(found, here)
            if not whole.all():
                log.warning(
                    "reuse: %s has other values than were computed of %s; not used",
                    *(self.path, count(int((~whole).sum()), "sequence")),
                )
            if whole.any():
                yield found.take(np.flatnonzero(whole)).astype(outputs.dtype)

    def _find_whole(self, found: Results, rows: np.ndarray) -> np.ndarray:
        """Return which rows still have the values that were computed, (k,) bool."""
        whole = np.ones(len(rows), bool)
        for key in (*found.rows, *found.ragged):
            whole &= checksums_under(key, found) == read_rows(self.file[checksums_at(key)], rows)
        return whole | [reason is not None for reason in found.reasons]

    def _check_shapes(self, keys: Sequence[str]) -> None:
        """Check that what is read below is there, of each record."""
        n, dim, file = len(self.file["digests"]), self.file.attrs["embedding_dim"], self.file
        architecture = replace(ARCHITECTURES[self.settings["model"]], embedding_dim=int(dim))
        for key in keys:
            output = output_of(key)
            shape = output.shape(len(file[key]) if output.ragged else n, architecture)
            if (file[key].shape, file[key].dtype) != (shape, self.settings["store_dtype"]):
                raise UnfitFile(f"has {key} in another shape than it says")
        of_keys = [checksums_at(key) for key in keys]
        if {len(file[name]) for name in ("lengths", "windows", *of_keys)} != {n}:
            raise UnfitFile("does not say of every record how long it is")

    def _read_reasons(self, rows: np.ndarray) -> list[Reason | None]:
        if not self.of_shard or not len(rows):  # a merged file has no rows of rejected records
            return [None] * len(rows)
        first = rows[0]
        reasons = read_rejections(self.file, slice(first, rows[-1] + 1))
        return [reasons[row - first] for row in rows]

    def _read_spans(self, key: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the values of some rows begin, and how many there are, (k,) each."""
        if self.of_shard:
            starts, sizes = (
                read_rows(self.file[f"{group_of(key)}/{name}"], rows)
                for name in ("starts", "sizes")
            )
        else:
            offsets = self.file[offsets_of(output_of(key))]
            starts = read_rows(offsets, rows)
            sizes = read_rows(offsets, rows + 1) - starts
        absent = self.of_shard & (starts < 0)  # of rejected records
        starts, sizes = np.where(absent, 0, starts), np.where(absent, 0, sizes)
        if ((starts < 0) | (sizes < 0) | (starts + sizes > len(self.file[key]))).any():
            raise UnfitFile(f"has no place for the values of {key}")
        return starts, sizes

    def _in_blocks(self, keys: Sequence[str], n: int, spans: dict) -> Iterator[slice]:
        """Return slices of the n rows that are wanted, whose values take some 64 MiB."""
        sizes = np.full(n, sum(bytes_of_row(self.file[k]) for k in keys if k not in spans))
        for key, (_, counts) in spans.items():
            sizes = sizes + counts * bytes_of_row(self.file[key])
        return blocks_of(np.concatenate([[0], np.cumsum(sizes)]), BYTES_AT_ONCE)

    def _read_ragged(self, key: str, starts: np.ndarray, sizes: np.ndarray) -> Ragged:
        values = [
            self.file[key][start : start + size] for start, size in zip(starts, sizes, strict=True)
        ]
        return Ragged(np.concatenate(values), sizes)


@contextmanager
def open_earlier(path: Path, of_shard: bool = False) -> Iterator[EarlierFile]:
    """Open an earlier file, merged or of a shard.

    Raises:
        UnfitFile: it cannot be read, or is something else; or, in the block, is damaged.
    """
    try:
        file = open_hdf5(path) if of_shard else open_checked(path)
    except InputError as error:
        raise UnfitFile(str(error).removeprefix(f"{path}: ").partition("; ")[0]) from error
    except (OSError, RuntimeError) as error:
        raise UnfitFile(f"cannot be read ({error})") from error
    with file:
        try:
            yield EarlierFile(path, file, of_shard)
        except (InputError, *DAMAGE) as error:
            raise UnfitFile(f"cannot be read, or is damaged ({error})") from error
