import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotesm.batching import count_tokens, plan_batches, window_starts


@given(st.lists(st.integers(3, 300), max_size=80), st.integers(3, 400))
def test_a_plan_holds_every_sequence_once_longest_first(costs: list[int], budget: int) -> None:
    batches = [batch.tolist() for batch in plan_batches(np.array(costs, dtype=int), budget)]
    order = [i for batch in batches for i in batch]
    assert order == sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    totals = [sum(costs[i] for i in batch) for batch in batches]
    assert all(t <= budget or len(b) == 1 for t, b in zip(totals, batches, strict=True))
    for total, following in zip(totals, batches[1:], strict=False):
        assert total + costs[following[0]] > budget, "the batch was closed too early"


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_windows_cover_a_sequence(length: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    starts = window_starts(length, window, overlap)
    assert starts == sorted(set(starts))
    covered = {p for start in starts for p in range(start, min(start + window, length))}
    assert covered == set(range(length))
    if length > window:
        assert starts[-1] + window == length
        assert all(b - a <= window - overlap for a, b in itertools.pairwise(starts))
    cost = sum(min(window, length - start) + 2 for start in starts)
    assert count_tokens(np.array([length]), window, overlap).tolist() == [cost]


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1022, [0]), (1023, [0, 1]), (1788, [0, 766]), (1789, [0, 766, 767]), (2554, [0, 766, 1532])],
)
def test_windows_of_the_default_size(length: int, starts: list[int]) -> None:
    assert window_starts(length, 1022, 256) == starts
