import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from spotesm.model.batching import plan_batches


@given(st.lists(st.integers(3, 300), max_size=80), st.integers(3, 400))
def test_a_plan_holds_every_sequence_once_longest_first(costs: list[int], budget: int) -> None:
    batches = [batch.tolist() for batch in plan_batches(np.array(costs, dtype=int), budget)]
    order = [i for batch in batches for i in batch]
    assert order == sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    totals = [sum(costs[i] for i in batch) for batch in batches]
    assert all(t <= budget or len(b) == 1 for t, b in zip(totals, batches, strict=True))
    for total, following in zip(totals, batches[1:], strict=False):
        assert total + costs[following[0]] > budget, "the batch was closed too early"
