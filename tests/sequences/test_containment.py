"""Are all records of an earlier result still there? Against a Counter, in memory."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequences import write_fasta
from spotesm.sequences.containment import holds_all
from spotesm.sequences.digests import digests_of

RECORD = st.tuples(st.sampled_from(["a", "b", "ab"]), st.sampled_from(["MK", "MKV", "V"]))


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotesm.sequences.containment.KEYS_AT_ONCE", 2)


def blocks_of(records: list[tuple[str, str]]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    for start in range(0, len(records), 3):
        block = records[start : start + 3]
        yield [name.encode() for name, _ in block], digests_of([s.encode() for _, s in block])


@given(st.lists(RECORD, max_size=12), st.lists(RECORD, min_size=1, max_size=12))
def test_it_says_what_counting_says(
    tmp_path_factory: pytest.TempPathFactory,
    held: list[tuple[str, str]],
    there: list[tuple[str, str]],
) -> None:
    path = write_fasta(tmp_path_factory.mktemp("now") / "x.fasta", there)
    assert holds_all([str(path)], blocks_of(held)) == (Counter(held) <= Counter(there))


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_of_many_is_missed(tmp_path: Path, place: int) -> None:
    """Also if a record that cannot be embedded makes up for the number."""
    rng = random.Random(3)
    held = [(f"p{i}", "".join(rng.choices("MKV", k=9))) for i in range(41)]
    there = [*held, ("bad", "MK*V")]
    assert holds_all([str(write_fasta(tmp_path / "x.fasta", there))], blocks_of(held))
    there[place if place >= 0 else -2] = ("other", "MKV")
    assert not holds_all([str(write_fasta(tmp_path / "y.fasta", there))], blocks_of(held))
