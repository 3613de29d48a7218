"""Which sequences are embedded together: pure functions, the same answer on every attempt."""

import numpy as np

SPECIAL_TOKENS = 2  # BOS and EOS, around every sequence or window


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where the windows over a sequence of `length` residues begin.

    A sequence of at most `window` residues has one window, the whole of it. A longer one is
    covered by windows of exactly `window` residues, each beginning `window - overlap` after
    the one before, but for the last, which ends with the sequence and so may overlap more.
    """
    if length <= window:
        return [0]
    return [*range(0, length - window, window - overlap), length - window]


def count_tokens(lengths: np.ndarray, window: int, overlap: int) -> np.ndarray:
    """Return the tokens that sequences of `lengths` (u,) residues cost, all windows together."""
    lengths = lengths.astype(np.int64)
    long = lengths > window
    n_windows = np.where(long, -(-(lengths - window) // (window - overlap)) + 1, 1)
    return n_windows * (np.where(long, window, lengths) + SPECIAL_TOKENS)


def plan_batches(tokens: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Group sequences, longest first, into batches of at most `token_budget` tokens.

    A sequence that exceeds the budget alone has a batch of its own. Ties keep their order, so
    the plan depends on nothing but its arguments.

    Args:
        tokens: (u,) the cost of each sequence.

    Returns:
        Batches of indices into `tokens`; every index appears once.
    """
    order = np.argsort(-tokens, kind="stable")
    edges = []
    in_batch = 0
    for place, cost in enumerate(tokens[order].tolist()):
        if place and in_batch + cost > token_budget:
            edges.append(place)
            in_batch = 0
        in_batch += cost
    return np.split(order, edges) if len(order) else []
