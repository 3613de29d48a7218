import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotesm.sequences.long_sequences import LongSequences


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_windows_cover_a_sequence(length: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    long = LongSequences("window", window, overlap, "reject")
    spans = [(span.start, span.stop) for span in long.spans(length)]
    assert spans == sorted(set(spans))
    assert {place for start, stop in spans for place in range(start, stop)} == set(range(length))
    if length > window:
        assert all(stop - start == window for start, stop in spans)
        assert all(b[0] - a[0] <= window - overlap for a, b in itertools.pairwise(spans))
    else:
        assert spans == [(0, length)]


@given(st.integers(1, 500), st.sampled_from(["window", "truncate", "whole", "reject"]))
def test_tokens_are_those_of_all_spans(length: int, policy: str) -> None:
    long = LongSequences(policy, 60, 20, "reject")
    if not long.rejects(np.array([length]))[0]:
        cost = sum(span.stop - span.start + 2 for span in long.spans(length))
        assert long.count_tokens(np.array([length], np.int32)).tolist() == [cost]


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1022, [0]), (1023, [0, 1]), (1788, [0, 766]), (1789, [0, 766, 767]), (2554, [0, 766, 1532])],
)
def test_windows_of_the_default_size(length: int, starts: list[int]) -> None:
    spans = LongSequences("window", 1022, 256, "reject").spans(length)
    assert [span.start for span in spans] == starts


@pytest.mark.parametrize(
    ("policy", "expected", "rejected"),
    [
        ("truncate", [slice(0, 60)], False),
        ("whole", [slice(0, 61)], False),
        ("reject", None, True),
    ],
)
def test_one_residue_more_than_the_window(
    policy: str, expected: list[slice] | None, rejected: bool
) -> None:
    long = LongSequences(policy, 60, 20, "reject")
    assert long.rejects(np.array([60, 61])).tolist() == [False, rejected]
    if expected:
        assert long.spans(61) == expected
