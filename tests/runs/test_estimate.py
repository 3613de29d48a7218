import itertools
import random
import re
import time
from pathlib import Path

import pytest
import torch
from sequences import random_sequence, write_fasta
from shards import make_request
from spotesm.embed.earlier import Past
from spotesm.request.outputs import OUTPUTS
from spotesm.runs import census as census_of
from spotesm.runs import estimate
from spotesm.runs.census import take_census
from spotesm.runs.estimate import count_bytes, plan_run
from spotesm.sequences.digests import digest_sequence
from spotesm.sequences.long_sequences import LongSequences

RECORDS = [("a", "MKV" * 30), ("b", "ACD"), ("c", "acd"), ("bad", "A*C"), ("d", "W" * 45)]


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "in.fasta", RECORDS)


def test_the_census_counts_records_and_different_sequences(fasta: Path) -> None:
    census = take_census([fasta, fasta])
    assert (census.records, census.rejected) == (10, 2)
    assert census.lengths.tolist() == [90, 3, 45]
    assert census.records_of.tolist() == [2, 4, 2]


def test_a_large_input_is_sampled_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3,000 sequences some 190 are kept; each twice, so that records count, too."""
    rng = random.Random(5)
    records = [(f"p{i}", random_sequence(rng, rng.randint(20, 60))) for i in range(3000)]
    fasta = write_fasta(tmp_path / "in.fasta", [*records, ("bad", "A*C"), *records])
    monkeypatch.setattr(census_of, "MOST_SEQUENCES", 300)
    census = take_census([fasta])
    assert (census.records, census.rejected, census.one_in) == (6001, 1, 16)
    assert 100 < len(census.lengths) <= 300
    assert set(census.records_of.tolist()) == {2}
    lengths = {digest_sequence(s.encode()): len(s) for _, s in records}
    assert census.lengths.tolist() == [lengths[d.tobytes()] for d in census.digests]
    assert census.different == pytest.approx(3000, rel=0.2)
    residues = census.estimate(census.lengths * census.records_of)
    assert residues == pytest.approx(2 * sum(lengths.values()), rel=0.2)
    fewer = census.without(census.lengths > 40)
    assert fewer.rejected == 1 + 16 * 2 * int((census.lengths > 40).sum())
    text = make_plan(fasta, engine="packed", policy="window")
    assert "mine: about, from one in 16 of its sequences." in text


@pytest.mark.parametrize("most", [2, 3, 4])
def test_up_to_a_size_nothing_is_estimated(
    fasta: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(census_of, "MOST_SEQUENCES", most)
    assert (take_census([fasta]).one_in == 1) == (most >= 3)
    assert "about, from" not in make_plan(fasta, engine="packed", policy="window") or most < 3


@pytest.mark.parametrize(
    ("policy", "expected_residues", "expected_maps"),
    [
        # Records of 90, 3, 3 and 45 residues; windows of 40 that overlap by 10: 3, 1, 1, 2.
        ("window", 141, 3 * 1600 + 2 * 9 + 2 * 1600),
        ("truncate", 86, 1600 + 2 * 9 + 1600),
        ("whole", 141, 8100 + 2 * 9 + 2025),
    ],
)
def test_bytes_are_those_of_the_datasets(
    fasta: Path, policy: str, expected_residues: int, expected_maps: int
) -> None:
    request = make_request(
        outputs=tuple(OUTPUTS),
        layers=(0, 6),
        store_dtype="float16",
        long_sequences=LongSequences(policy, 40, 10, "reject"),
    )
    size = count_bytes(take_census([fasta]), request)
    assert count_bytes(take_census([fasta]), request, once=True) < size
    rows = 2 * 4 * 320 * 2  # mean and bos, of four records, at two layers
    residues = expected_residues * (320 * 2 + 33)
    assert size == 2 * (rows + residues + expected_maps)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("window", ["mine", "5", "1", "3", "0", "141", "90", "3", "5.1", "kB", "9.0", "kB"]),
        ("reject", ["mine", "5", "2", "2", "0", "51", "45", "3", "3.8", "kB", "6.4", "kB"]),
    ],
)
def test_the_table_names_datasets_and_their_cost(
    fasta: Path, monkeypatch: pytest.MonkeyPatch, policy: str, expected: list[str]
) -> None:
    monkeypatch.setattr(estimate, "measure_speed", lambda *_: 1e9)
    monkeypatch.setattr(estimate.psutil.Process, "create_time", lambda _: time.time() - 100)
    text = make_plan(fasta, engine="packed", policy=policy)
    row = next(line.split() for line in text.splitlines() if line.startswith("mine"))
    assert row[:12] == expected
    assert row[12:] == ["5", "min"]


def test_logits_are_as_wide_as_the_model_s_vocabulary(fasta: Path) -> None:
    census = take_census([fasta])
    sizes = [
        count_bytes(census, make_request(model=model, outputs=("logits",)))
        for model in ("esm2_t6_8M_UR50D", "esmc_300m")
    ]
    assert sizes == [4 * 141 * 33, 4 * 141 * 64]


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        ("packed", "esm2_t6_8M_UR50D"),
        ("reference", "esm2_t6_8M_UR50D"),
        ("packed", "esmc_300m"),
        ("reference", "esm1b_t33_650M_UR50S"),
    ],
)
def test_the_speed_is_measured(fasta: Path, engine: str, model: str) -> None:
    text = make_plan(fasta, engine=engine, policy="window", model=model)
    assert text.startswith(f"{model} in float32 on one CPU")
    speed = int(re.search(r"about ([\d,]+) tokens/s", text)[1].replace(",", ""))
    assert 10 < speed < 1_000_000


@pytest.mark.parametrize(
    ("engine", "layers", "expected"),
    [("packed", (2,), 3), ("packed", (6,), 1), ("reference", (2,), 1)],
)
def test_layers_that_do_not_run_take_no_time(
    monkeypatch: pytest.MonkeyPatch, engine: str, layers: tuple[int, ...], expected: float
) -> None:
    clock = itertools.count()  # each look a second later: every pass takes as long
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock))
    speeds = [
        estimate.measure_speed(
            make_request(engine=engine, layers=own, precision="float32"), torch.device("cpu")
        )
        for own in (layers, (6,))
    ]
    assert speeds[0] / speeds[1] == pytest.approx(expected)


def make_plan(fasta: Path, engine: str, policy: str, model: str = "esm2_t6_8M_UR50D") -> str:
    request = make_request(
        model=model,
        engine=engine,
        long_sequences=LongSequences(policy, 60, 10, "reject"),
        precision="float32",
    )
    past = Past(None, None, None, [])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(estimate, "PROBE_SECONDS", 0.05)
        return plan_run(
            {"mine": [fasta]}, {"mine": 3}, request, {"mine": past}, fasta.with_name("none.json")
        )
