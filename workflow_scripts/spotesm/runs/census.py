"""What an input holds: counted, or above some size estimated from a sample, in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spotesm.sequences.digests import digest_sequence, from_bytes
from spotesm.sequences.fasta import RejectedSequence, normalise, read_fasta

MOST_SEQUENCES = 1 << 18  # different ones, up to which all are kept


@dataclass(frozen=True)
class Census:
    """What an input holds.

    Attributes:
        records, rejected: how many records, and how many of them get no row.
        lengths: (u,) residues of each different sequence that was kept.
        records_of: (u,) records that have it.
        digests: (u,) DIGEST of each.
        one_in: of how many different sequences one was kept; 1 if all were.
    """

    records: int
    rejected: int
    lengths: np.ndarray
    records_of: np.ndarray
    digests: np.ndarray
    one_in: int = 1

    @property
    def different(self) -> int:
        """How many different sequences there are, or about."""
        return len(self.lengths) * self.one_in

    def without(self, which: np.ndarray) -> "Census":
        """Return the census with some of the sequences kept, (u,) bool, rejected."""
        return replace(
            self,
            rejected=self.rejected + self.estimate(self.records_of[which]),
            lengths=self.lengths[~which],
            records_of=self.records_of[~which],
            digests=self.digests[~which],
        )

    def estimate(self, values: np.ndarray) -> int:
        """Return the sum over all sequences of what is known of some that were kept."""
        return int(values.sum()) * self.one_in


def take_census(paths: Sequence[Path]) -> Census:
    """Read FASTA files once.

    Whether a sequence is kept follows from its digest, so however often it comes, it counts once
    (distinct sampling, Gibbons 2001, VLDB). Whenever too many are kept, half of them go.
    """
    kept: dict[bytes, list[int]] = {}  # length, records
    records = rejected = 0
    one_in = 1
    for record in read_fasta(paths):
        records += 1
        try:
            sequence = normalise(record).sequence
        except RejectedSequence:
            rejected += 1
            continue
        digest = digest_sequence(sequence)
        if _is_left_out(digest, one_in):
            continue
        kept.setdefault(digest, [len(sequence), 0])[1] += 1
        while len(kept) > MOST_SEQUENCES:
            one_in *= 2
            kept = {d: facts for d, facts in kept.items() if not _is_left_out(d, one_in)}
    facts = np.array(list(kept.values()), np.int64).reshape(-1, 2)
    return Census(records, rejected, facts[:, 0], facts[:, 1], from_bytes(b"".join(kept)), one_in)


def _is_left_out(digest: bytes, one_in: int) -> bool:
    return int.from_bytes(digest[-4:]) % one_in != 0
