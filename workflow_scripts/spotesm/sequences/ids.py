"""How many records repeat the id of an earlier one."""

from array import array
from collections.abc import Iterable
from itertools import pairwise
from typing import BinaryIO

import numpy as np

ID_HASHES_AT_ONCE = 1 << 20


class Ids:
    """Counts ids, and those that repeat an earlier one, by their hashes in a file.

    So hundreds of millions of ids need disk, not memory. The chance that two of 300 million
    different ones share a hash is 1 in 400.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = array("q")  # those that are not in the file yet
        self._ends = [0]  # of what was written at once, ascending, in the file

    def __len__(self) -> int:
        return self._ends[-1] + len(self._last)

    def add(self, names: Iterable[bytes]) -> None:
        """Take the next ones."""
        self._last.extend(map(hash, names))  # Python's, the same for as long as this process lives
        if len(self._last) >= ID_HASHES_AT_ONCE:
            self._write()

    def _write(self) -> None:
        np.sort(np.frombuffer(self._last, np.uint64)).tofile(self._file)
        self._ends.append(len(self))
        self._last = array("q")

    def count_repeats(self) -> int:
        """Count them, one range of hashes after another."""
        self._write()
        self._file.flush()
        if not len(self):
            return 0
        hashes = np.memmap(self._file, np.uint64, "r")
        blocks = [hashes[start:end] for start, end in pairwise(self._ends)]
        n_ranges = -(-len(self) // ID_HASHES_AT_ONCE)
        firsts = [np.uint64((number << 64) // n_ranges) for number in range(n_ranges)]
        places = [[*np.searchsorted(block, firsts), len(block)] for block in blocks]
        n_repeats = 0
        for number in range(n_ranges):
            parts = [
                block[ends[number] : ends[number + 1]]
                for block, ends in zip(blocks, places, strict=True)
            ]
            ascending = np.sort(np.concatenate(parts))  # np.unique takes many times as long
            n_repeats += int(np.count_nonzero(ascending[1:] == ascending[:-1]))
        return n_repeats
