"""What is known of sequences once they went through the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Results:
    """Outputs of k sequences.

    Attributes:
        digests: (k,) S16, blake2b-128 of each normalised sequence.
        mean: (k, D) float32, the mean over residues of the last layer; undefined in rows
            whose reason is not empty.
        reasons: why a sequence was rejected instead; empty for all others.
    """

    digests: np.ndarray
    mean: np.ndarray
    reasons: list[str]

    @property
    def nbytes(self) -> int:
        """Bytes that the outputs take."""
        return self.mean.nbytes + self.digests.nbytes


def concatenate(results: Sequence[Results]) -> Results:
    """Join the outputs of several batches."""
    return Results(
        np.concatenate([r.digests for r in results]),
        np.concatenate([r.mean for r in results]),
        [reason for r in results for reason in r.reasons],
    )
