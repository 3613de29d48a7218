"""What happens to sequences that are longer than the window: pure functions of their lengths."""

from dataclasses import dataclass

import numpy as np

SPECIAL_TOKENS = 2  # BOS and EOS, around every sequence or window
WINDOW, TRUNCATE, WHOLE, REJECT = "window", "truncate", "whole", "reject"
SMALLER_WINDOWS = "smaller_windows"


@dataclass(frozen=True)
class LongSequences:
    """A policy.

    Attributes:
        policy: `window` cuts longer sequences into overlapping windows, `truncate` takes the
            first window alone, `whole` takes them whole, and `reject` rejects them.
        window: most residues that go through the model at once, but for `whole`.
        overlap: residues that neighbouring windows share.
        out_of_memory: what to do with a sequence that does not fit on the device even alone:
            `reject`, or cut it into `smaller_windows`.
    """

    policy: str
    window: int
    overlap: int
    out_of_memory: str

    @property
    def cuts(self) -> bool:
        """Whether there can be windows that overlap."""
        return self.policy == WINDOW or self.out_of_memory == SMALLER_WINDOWS

    def spans(self, length: int) -> list[slice]:
        """Return which residues of a sequence of `length` go through the model together.

        One span is as long as the sequence allows. Several are exactly `window` long, each
        beginning `window - overlap` after the one before, but for the last, which ends with the
        sequence and so may overlap more.
        """
        if self.policy == TRUNCATE:
            return [slice(0, min(length, self.window))]
        if self.policy == WHOLE:
            return [slice(0, length)]
        return cut(length, self.window, self.overlap)

    def count_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Return the tokens that sequences of `lengths` (u,) cost, all windows together."""
        return self.count_windows(lengths) * (self.longest_window(lengths) + SPECIAL_TOKENS)

    def count_windows(self, lengths: np.ndarray) -> np.ndarray:
        """Return in how many windows sequences of `lengths` (u,) go through the model."""
        lengths = lengths.astype(np.int64)
        n_windows = np.ones_like(lengths)
        if self.policy == WINDOW:
            step = self.window - self.overlap
            n_windows += np.maximum(0, -(-(lengths - self.window) // step))
        return n_windows

    def longest_window(self, lengths: np.ndarray) -> np.ndarray:
        """Return the residues of each window of sequences of `lengths` (u,)."""
        lengths = lengths.astype(np.int64)
        return lengths if self.policy == WHOLE else np.minimum(lengths, self.window)

    def count_seen(self, lengths: np.ndarray) -> np.ndarray:
        """Return how many residues of sequences of `lengths` (u,) the model sees at all."""
        lengths = lengths.astype(np.int64)
        return np.minimum(lengths, self.window) if self.policy == TRUNCATE else lengths

    def cuts_like(self, other: "LongSequences", lengths: np.ndarray) -> np.ndarray:
        """Return which sequences of `lengths` (u,) another policy cuts as this does, (u,) bool.

        Those that are no longer than either window go through whole, whatever the policies.
        """
        same = (self.policy, self.window) == (other.policy, other.window)
        same &= self.policy != WINDOW or self.overlap == other.overlap
        return (self._keeps_whole(lengths) & other._keeps_whole(lengths)) | same

    def _keeps_whole(self, lengths: np.ndarray) -> np.ndarray:
        return (lengths <= self.window) | (self.policy == WHOLE)

    def rejects(self, lengths: np.ndarray) -> np.ndarray:
        """Return which sequences, (u,) bool, are rejected for their `lengths` (u,)."""
        return (lengths > self.window) & (self.policy == REJECT)


def cut(length: int, window: int, overlap: int) -> list[slice]:
    """Cover `length` residues by windows; one alone if they fit."""
    if length <= window:
        return [slice(0, length)]
    starts = [*range(0, length - window, window - overlap), length - window]
    return [slice(start, start + window) for start in starts]
