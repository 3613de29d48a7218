"""Find records by their ids, or other texts of theirs, in 16 bytes of memory a record."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spotesm.sequences.digests import hash_text


@dataclass(frozen=True)
class TextIndex:
    """Where texts are.

    Attributes:
        hashes: (k,) uint64, ascending.
        rows: (k,) int64, whose they are; ascending where hashes are equal.
    """

    hashes: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "TextIndex":
        """Index the texts of rows 0, 1, ...; a None is passed over."""
        hashes, rows = array("Q"), array("q")
        for row, text in enumerate(texts):
            if text is not None:
                hashes.append(_hash_of(text))
                rows.append(row)
        unordered = np.frombuffer(hashes, np.uint64)
        order = np.argsort(unordered, kind="stable")
        return cls(unordered[order], np.frombuffer(rows, np.int64)[order])

    def candidates(self, text: str) -> list[int]:
        """Return the rows that may have a text, ascending: other texts may share its hash."""
        wanted = np.uint64(_hash_of(text))
        first = np.searchsorted(self.hashes, wanted)
        end = np.searchsorted(self.hashes, wanted, "right")
        return self.rows[first:end].tolist()


def _hash_of(text: str) -> int:
    return int.from_bytes(hash_text(text), "little")
