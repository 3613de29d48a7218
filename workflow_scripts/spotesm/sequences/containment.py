"""Whether FASTA files still have every record of an earlier result."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from spotesm.sequences.digests import as_bytes, digests_of, hash_bytes, keys_of_hashes
from spotesm.sequences.fasta import Batch, RejectedSequence, normalise, normalise_all, read_batches

KEYS_AT_ONCE = 1 << 22


def holds_all(paths: Sequence[str], held: Iterable[tuple[list[bytes], np.ndarray]]) -> bool:
    """Whether every record, by its id and its normalised sequence, is in FASTA files.

    A record that is held k times has to be there k times. Memory does not grow with either side:
    8 bytes of each record wait on disk.

    Args:
        held: ids and digests (k,) DIGEST of the records, block by block.

    Raises:
        InputError: a file cannot be read.
    """
    with ExitStack() as stack:
        earlier, now = (_Keys(stack.enter_context(TemporaryFile())) for _ in range(2))
        for names, digests in held:
            earlier.add(names, digests)
        for batch in read_batches([Path(path) for path in paths]):
            now.add(*_embeddable(batch))
        return now.n >= earlier.n and _is_contained(earlier, now)


def _embeddable(batch: Batch) -> tuple[list[bytes], np.ndarray]:
    """Return ids and digests of the records that are not rejected."""
    sequences = normalise_all(batch)
    if sequences is not None:
        return batch.names, digests_of(sequences)
    names, kept = [], []
    for record in batch.records():
        try:
            kept.append(normalise(record).sequence)
        except RejectedSequence:
            continue
        names.append(record.name)
    return names, digests_of(kept)


class _Keys:
    """Keys of records, in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.n = 0

    def add(self, names: Sequence[bytes], digests: np.ndarray) -> None:
        of_both = zip(names, as_bytes(digests), strict=True)
        hashes = [hash_bytes(name + b"\0" + digest.tobytes()) for name, digest in of_both]
        keys_of_hashes(hashes).tofile(self._file)
        self.n += len(hashes)

    def within(self, first: int, last: int) -> np.ndarray:
        """Return the keys from `first` to `last`, ascending."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *self._select(first, last)]))

    def _select(self, first: int, last: int) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while len(keys := np.fromfile(self._file, np.uint64, KEYS_AT_ONCE)):
            yield keys[(keys >= first) & (keys <= last)]


def _is_contained(earlier: _Keys, now: _Keys) -> bool:
    n_ranges = 1 + now.n // KEYS_AT_ONCE
    for number in range(n_ranges):
        first, last = (number << 64) // n_ranges, ((number + 1 << 64) // n_ranges) - 1
        keys, counts = np.unique(earlier.within(first, last), return_counts=True)
        there = now.within(first, last)
        found = np.searchsorted(there, keys, "right") - np.searchsorted(there, keys, "left")
        if (found < counts).any():
            return False
    return True
