"""Which sequences are embedded together: pure functions, the same answer on every attempt."""

import numpy as np


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
