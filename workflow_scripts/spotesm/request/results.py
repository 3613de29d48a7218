"""What is known of sequences once they went through the model."""

from collections.abc import Container
from dataclasses import dataclass, field, replace

import numpy as np

from spotesm.sequences.reasons import Device, Reason


class Unusable(Exception):
    """A file of earlier results that must not be used; says why."""


@dataclass(frozen=True)
class Ragged:
    """Values whose number depends on the sequence.

    Attributes:
        values: (n, D) or (n,), those of one sequence after those of another.
        offsets: (k + 1,) int64, where those of each sequence begin and, last, where they end: n.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of_sizes(cls, values: np.ndarray, sizes: np.ndarray) -> "Ragged":
        """Take values of which `sizes` (k,) belong to each sequence."""
        return cls(values, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    @property
    def sizes(self) -> np.ndarray:
        """How many values belong to each sequence, (k,)."""
        return np.diff(self.offsets)

    def take(self, which: np.ndarray) -> "Ragged":
        """Return the values of some of the sequences, (j,) ascending places."""
        of_sequence = np.zeros(len(self.sizes), bool)
        of_sequence[which] = True
        values = self.values[np.repeat(of_sequence, self.sizes)]
        return Ragged.of_sizes(values, self.sizes[which])


@dataclass(frozen=True)
class Results:
    """Outputs of k sequences; what belongs to a rejected one is undefined or empty.

    Attributes:
        digests: (k,) DIGEST, of each normalised sequence.
        reasons: why a sequence was rejected instead; None for all others.
        windows: (k,) int32, in how many windows each went through the model.
        rows: by key (see `Outputs`), (k, D): outputs with one row a sequence.
        ragged: by key, outputs with a number of values that depends on the sequence.
        origin: the earlier file that all of it was taken from; empty if it was computed.
    """

    digests: np.ndarray
    reasons: list[Reason | None]
    windows: np.ndarray
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    ragged: dict[str, Ragged] = field(default_factory=dict)
    origin: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that the outputs take."""
        arrays = [self.digests, *self.rows.values(), *(r.values for r in self.ragged.values())]
        return sum(array.nbytes for array in arrays)

    def only(self, keys: Container[str]) -> "Results":
        """Return the outputs with some of the keys alone."""
        return replace(
            self,
            rows={key: rows for key, rows in self.rows.items() if key in keys},
            ragged={key: ragged for key, ragged in self.ragged.items() if key in keys},
        )

    def astype(self, dtype: np.dtype) -> "Results":
        """Return the outputs in another type."""
        return replace(
            self,
            rows={key: rows.astype(dtype, copy=False) for key, rows in self.rows.items()},
            ragged={
                key: Ragged(ragged.values.astype(dtype, copy=False), ragged.offsets)
                for key, ragged in self.ragged.items()
            },
        )

    def on(self, device: Device) -> "Results":
        """Return it with the device that rejections belong to."""
        return replace(self, reasons=[reason and reason.on(device) for reason in self.reasons])

    def take(self, which: np.ndarray) -> "Results":
        """Return what is known of some of the sequences, (j,) ascending places."""
        if len(which) == len(self.digests):
            return self
        return replace(
            self,
            digests=self.digests[which],
            reasons=[self.reasons[place] for place in which],
            windows=self.windows[which],
            rows={key: rows[which] for key, rows in self.rows.items()},
            ragged={key: ragged.take(which) for key, ragged in self.ragged.items()},
        )


def rejected(digests: np.ndarray, reason: Reason) -> Results:
    """Return the results of sequences (k,) that are all rejected: no values, one reason."""
    return Results(digests, [reason] * len(digests), np.zeros(len(digests), np.int32))
