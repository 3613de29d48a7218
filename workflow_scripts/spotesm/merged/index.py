"""The index in a merged file: which rows have an id or a digest, found without reading the rest.

Datasets, ascending by key: `index/digest_keys` (u,) uint64, the first 8 bytes of each different
digest as a big-endian number, and `index/digest_rows` (u,), the first row that has it;
`index/id_keys` (n,) uint64, 8 bytes of the blake2b-128 of each id, and `index/id_rows` (n,). Keys
of different ids may be equal, so what is found is a candidate.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.hdf5.pieces import Piece
from spotesm.sequences.digests import hash_text, keys_of_bytes, keys_of_hashes

ENTRIES_AT_ONCE = 1 << 20
ROWS_AT_ONCE = 1 << 16
LEAST_AROUND = 1 << 11
KEYS = 1 << 64  # so many there are; they are spread evenly, as those of any hash
_ENTRY = np.dtype([("key", np.uint64), ("row", np.uint64)])


class IndexWriter:
    """Collects the keys of the rows, and writes the index.

    Args:
        folder: where temporary files may lie.
        n: rows there will be, at most.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self._stack = ExitStack()
        self._sorters = {name: _Sorter(folder, n, self._stack) for name in ("digest", "id")}
        self._folder = folder
        self._n_rows = 0

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, id_keys: np.ndarray, digests: np.ndarray) -> None:
        """Take the next rows.

        Args:
            id_keys: (k,) uint64, the keys of their ids.
            digests: (k, 16) uint8.
        """
        self._sorters["digest"].add(_entries(keys_of_bytes(digests), self._n_rows))
        self._sorters["id"].add(_entries(id_keys, self._n_rows))
        self._n_rows += len(id_keys)

    def write(self, file: h5py.File) -> None:
        """Sort, and write the datasets."""
        _write(file, "id", self._sorters["id"].in_order(), self._n_rows, self._n_rows)
        with tempfile.TemporaryFile(dir=self._folder) as kept:
            total = 0
            for entries in _first_of_each(self._sorters["digest"].in_order()):
                kept.write(entries.tobytes())
                total += len(entries)
            kept.seek(0)
            blocks = (
                np.fromfile(kept, _ENTRY, ENTRIES_AT_ONCE) for _ in range(0, total, ENTRIES_AT_ONCE)
            )
            _write(file, "digest", blocks, total, self._n_rows)


def _write(
    file: h5py.File, name: str, blocks: Iterator[np.ndarray], total: int, n_rows: int
) -> None:
    keys = file.create_dataset(f"index/{name}_keys", total, np.uint64, fill_time="never")
    row_type = np.uint32 if n_rows <= 1 << 32 else np.uint64
    rows = file.create_dataset(f"index/{name}_rows", total, row_type, fill_time="never")
    end = 0
    for block in blocks:
        place = slice(end, end + len(block))
        keys[place], rows[place] = block["key"], block["row"]
        end = place.stop


class _Sorter:
    """Sorts entries on disk, by key and then by row; needs memory for a million of them.

    They go to a temporary file in sorted runs, of which a range of keys at a time is read again.

    Args:
        folder: of the temporary file; None for the system's.
        n: entries there will be, about.
        stack: closes the file.
    """

    def __init__(self, folder: Path | None, n: int, stack: ExitStack) -> None:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._file: BinaryIO = stack.enter_context(file)
        n_ranges = max(1, math.ceil(n / ENTRIES_AT_ONCE))
        self._bounds = np.array([i * KEYS // n_ranges for i in range(1, n_ranges)], np.uint64)
        self._runs: list[np.ndarray] = []  # where each range of each run begins, and the last ends
        self._pending: list[np.ndarray] = []
        self._end = 0

    def add(self, entries: np.ndarray) -> None:
        """Take entries of rows behind those taken before."""
        self._pending.append(entries)
        if sum(map(len, self._pending)) >= ENTRIES_AT_ONCE:
            self._write_run()

    def _write_run(self) -> None:
        run = _sorted(self._pending)
        edges = np.searchsorted(run["key"], self._bounds)
        self._runs.append(self._end + np.concatenate([[0], edges, [len(run)]]))
        self._file.write(run.tobytes())
        self._end += len(run)
        self._pending = []

    def in_order(self) -> Iterator[np.ndarray]:
        """Yield all entries, sorted, some at a time."""
        if self._pending:
            self._write_run()
        for number in range(len(self._bounds) + 1):
            pieces = [self._read(*run[number : number + 2]) for run in self._runs]
            if any(map(len, pieces)):
                yield _sorted(pieces)

    def _read(self, start: int, end: int) -> np.ndarray:
        self._file.seek(int(start) * _ENTRY.itemsize)
        return np.fromfile(self._file, _ENTRY, int(end - start))


def _first_of_each(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the first entry of each key, of a sorter's blocks: no two of them share a key."""
    for entries in blocks:
        yield entries[np.diff(entries["key"], prepend=~entries["key"][:1]) != 0]


def _sorted(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Join entries, whose rows ascend where keys are equal, and sort them by key."""
    entries = np.concatenate(pieces)
    return entries[np.argsort(entries["key"], kind="stable")]


class Index:
    """The index of an open merged file."""

    def __init__(self, pieces: dict[str, Piece]) -> None:
        self._pieces = pieces

    @classmethod
    def of(cls, file: h5py.File) -> "Index | None":
        """Open the index of a file; None where it has none, or no whole one, or has no rows."""
        names = ("id_keys", "id_rows", "digest_keys", "digest_rows")
        if not set(names) <= set(file.get("index", ())):
            return None
        pieces = {name: Piece.of(file[f"index/{name}"]) for name in names}
        return None if None in pieces.values() else cls(pieces)

    def entries(self, name: str) -> Iterator[np.ndarray]:
        """Yield all keys and rows of ids (`id`) or digests (`digest`), some at a time."""
        keys, rows = self._pieces[f"{name}_keys"], self._pieces[f"{name}_rows"]
        for start in range(0, len(keys), ENTRIES_AT_ONCE):
            end = min(start + ENTRIES_AT_ONCE, len(keys))
            entries = np.empty(end - start, _ENTRY)
            entries["key"], entries["row"] = keys.read(start, end), rows.read(start, end)
            yield entries

    def candidates(self, identifier: str) -> list[int]:
        """Return the rows that may have an id, ascending: other ids may share its key."""
        key = np.uint64(int.from_bytes(hash_text(identifier), "big"))
        start, keys = _read_around(self._pieces["id_keys"], int(key))
        first, end = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
        return self._pieces["id_rows"].read(start + first, start + end).tolist()

    def rows_of_ids(self, identifiers: Sequence[str]) -> np.ndarray:
        """Return the row, (k,) int64, that may have each id; -1 where none has, or several may."""
        return self._find("id", keys_of_hashes(map(hash_text, identifiers)), unique=True)

    def rows_of_digests(self, digests: np.ndarray) -> np.ndarray:
        """Return a row, (k,) int64, that may have each digest (k, 16) uint8; -1 where none has."""
        return self._find("digest", keys_of_bytes(digests))

    def _find(self, name: str, wanted: np.ndarray, unique: bool = False) -> np.ndarray:
        """Return the first row of each key, (k,) int64; the index is read once, in blocks.

        Args:
            unique: -1 where a key comes more than once.
        """
        keys, rows = self._pieces[f"{name}_keys"], self._pieces[f"{name}_rows"]
        order = np.argsort(wanted)
        found = np.full(len(wanted), -1, np.int64)
        start, ascending = 0, wanted[order]
        done = 0
        while done < len(order):
            # From where the next one may be: blocks in which none is are passed over.
            guess = int(ascending[done]) * len(keys) // KEYS - _around(keys)
            start = max(start, guess) if _is_below(keys, guess, ascending[done]) else start
            ahead = keys.read(start, min(start + ENTRIES_AT_ONCE + 1, len(keys)))
            block = ahead[:ENTRIES_AT_ONCE]
            last = start + len(block) >= len(keys)
            end = len(order) if last else int(np.searchsorted(ascending, block[-1], "right"))
            here = order[done:end]
            places = np.searchsorted(block, wanted[here])
            hit = block[places.clip(max=len(block) - 1)] == wanted[here]
            if unique:
                hit &= np.searchsorted(ahead, wanted[here], "right") - places == 1
            if hit.any():
                first, final = places[hit].min(), places[hit].max()
                of_block = rows.read(start + int(first), start + int(final) + 1)
                found[here[hit]] = of_block[places[hit] - first]
            done, start = end, start + len(block)
        return found


def _around(keys: Piece) -> int:
    """Return how far a key is, nearly always, from where it is to be expected."""
    return max(LEAST_AROUND, 4 * math.isqrt(len(keys)))


def _is_below(keys: Piece, place: int, key: np.uint64) -> bool:
    """Whether a place exists and its key is a smaller one."""
    return 0 < place < len(keys) and bool(keys.read(place, place + 1)[0] < key)


def _read_around(keys: Piece, key: int) -> tuple[int, np.ndarray]:
    """Read, at once, a stretch of keys in which all equal to one are; where it begins."""
    middle, width = key * len(keys) // KEYS, _around(keys)
    while True:
        start, end = max(0, middle - width), min(len(keys), middle + width)
        found = keys.read(start, end)
        if (start == 0 or found[0] < key) and (end == len(keys) or found[-1] > key):
            return start, found
        width *= 16


# -- checking --------------------------------------------------------------------------------------


def check_index(file: h5py.File) -> None:
    """Check that the index of a merged file is that of its rows.

    That is: it is in order, and the sum of a hash of each of its entries is that of the rows' own.
    Needs memory for a million rows, and 16 bytes a row of temporary files.

    Raises:
        IncompleteError: it is not.
    """
    index, n = Index.of(file), len(file["digests"])
    if index is None:
        if n or any(len(dataset) for dataset in file.get("index", {}).values()):
            raise IncompleteError(f"{file.filename}: its index is not whole; merge it again")
        return
    for name, own in (("id", _ids_of(file)), ("digest", _first_digests_of(file))):
        if _sum_of_hashes(_in_order(index.entries(name))) != _sum_of_hashes(own):
            raise IncompleteError(
                f"{file.filename}: its index does not find each {name}; merge it again"
            )


def _ids_of(file: h5py.File) -> Iterator[np.ndarray]:
    """Yield the entry of each id, in the order of the rows."""
    ids = file["sequence_ids"].asstr()
    for start in range(0, len(ids), ROWS_AT_ONCE):
        yield _entries(keys_of_hashes(map(hash_text, ids[start : start + ROWS_AT_ONCE])), start)


def _first_digests_of(file: h5py.File) -> Iterator[np.ndarray]:
    """Yield the entry of the first row of each digest, in order."""
    digests = file["digests"]
    with ExitStack() as stack:
        sorter = _Sorter(None, len(digests), stack)
        for start in range(0, len(digests), ROWS_AT_ONCE):
            sorter.add(_entries(keys_of_bytes(digests[start : start + ROWS_AT_ONCE]), start))
        yield from _first_of_each(sorter.in_order())


def _entries(keys: np.ndarray, first_row: int) -> np.ndarray:
    entries = np.empty(len(keys), _ENTRY)
    entries["key"] = keys
    entries["row"] = np.arange(first_row, first_row + len(keys))
    return entries


def _in_order(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks as long as their entries ascend by key, and where keys are equal, by row."""
    last = np.empty(0, _ENTRY)
    for block in blocks:
        entries = np.concatenate([last, block])
        keys, rows = entries["key"], entries["row"]
        above = (keys[1:] > keys[:-1]) | ((keys[1:] == keys[:-1]) & (rows[1:] > rows[:-1]))
        if not above.all():
            return
        yield block
        last = block[-1:]


def _sum_of_hashes(blocks: Iterator[np.ndarray]) -> int:
    """Return the sum of a hash of each entry's key and row: splitmix64's finisher."""
    total = 0
    for block in blocks:
        mixed = block["key"] ^ (block["row"] * np.uint64(0x9E3779B97F4A7C15))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        total += int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64))
    return total % KEYS
