"""What is known of sequences once they went through the model."""

from dataclasses import dataclass, field

import numpy as np

from spotesm.sequences.reasons import Reason


@dataclass(frozen=True)
class Ragged:
    """Values whose number depends on the sequence.

    Attributes:
        values: (n, D) or (n,), those of one sequence after those of another.
        sizes: (k,) int64, how many belong to each sequence; their sum is n.
    """

    values: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Results:
    """Outputs of k sequences; what belongs to a rejected one is undefined or empty.

    Attributes:
        digests: (k,) DIGEST, of each normalised sequence.
        reasons: why a sequence was rejected instead; None for all others.
        windows: (k,) int32, in how many windows each went through the model.
        rows: by key (see `Outputs`), (k, D): outputs with one row a sequence.
        ragged: by key, outputs with a number of values that depends on the sequence.
    """

    digests: np.ndarray
    reasons: list[Reason | None]
    windows: np.ndarray
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    ragged: dict[str, Ragged] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that the outputs take."""
        arrays = [self.digests, *self.rows.values(), *(r.values for r in self.ragged.values())]
        return sum(array.nbytes for array in arrays)


def rejected(digests: np.ndarray, reason: Reason) -> Results:
    """Return the results of sequences (k,) that are all rejected: no values, one reason."""
    return Results(digests, [reason] * len(digests), np.zeros(len(digests), np.int32))
