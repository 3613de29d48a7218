"""Figures: what is drawn adds up to what there is."""

import math
from collections import Counter

import numpy as np
import pytest
from spotesm.report import figures
from spotesm.report.figures import draw_lengths, draw_timeline, measure_rates
from spotesm.report.ticks import Axis, write_number
from spotesm.runs.history import PastAttempt

BEGAN = 1767261600.0  # 2026-01-01T10:00:00Z


# -- lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 300, 5000])
def test_every_protein_is_in_one_bar(n: int) -> None:
    rng = np.random.default_rng(n)
    lengths = np.round(rng.lognormal(5.5, 0.8, n) + 20).astype(np.int32)
    cut = lengths > 1022
    drawn = draw_lengths(lengths, cut, 1022, "in windows")
    counts = Counter()
    covered = 0
    for bar in drawn.bars:
        residues, _, rest = bar.tip.partition(" residues: ")
        count, kind = rest.split(" ", 1)
        first, _, last = residues.partition(" to ")
        inside = (
            (lengths >= int(first)) & (lengths <= int(last or first)) & (cut == (kind != "whole"))
        )
        assert int(count) == inside.sum(), bar
        counts[kind] += int(count)
        covered += inside.sum()
        assert kind == bar.kind
    assert covered == n
    assert counts["in windows"] == cut.sum() == drawn.n_cut
    # From the shortest to the longest, and not beyond.
    assert (drawn.shortest, drawn.longest) == (lengths.min(), lengths.max())
    assert min(bar.left for bar in drawn.bars) == 0
    assert max(bar.left + bar.width for bar in drawn.bars) == pytest.approx(100, abs=0.01)
    assert max(bar.bottom + bar.height for bar in drawn.bars) == pytest.approx(100, abs=0.01)


def test_bars_end_at_the_window() -> None:
    lengths = np.array([1, 5, 10, 11, 12, 40])
    drawn = draw_lengths(lengths, lengths > 10, 10, "truncated")
    assert all((bar.kind == "whole") == (bar.left < drawn.window) for bar in drawn.bars)
    assert drawn.window == pytest.approx(100 * math.log(11) / math.log(41), abs=1e-3)
    assert draw_lengths(lengths, lengths > 99, 99, "truncated").window is None


def test_no_proteins_no_bars() -> None:
    assert draw_lengths(np.zeros(0, np.int32), np.zeros(0, bool), 10, "truncated") is None


# -- attempts --------------------------------------------------------------------------------------


def attempt(start: float, end: float, outcome: str = "completed", **others: object) -> PastAttempt:
    facts = {"shard": "3-of-16", "number": 1, "host": "node1", "device": "cuda:0", "computed": 0}
    facts |= {"speeds": [], **others}
    return PastAttempt(start=BEGAN + start, end=BEGAN + end, outcome=outcome, **facts)


def test_attempts_are_bars_of_their_time_by_device() -> None:
    drawn = draw_timeline(
        [
            attempt(50, 100, host="node2"),
            attempt(0, 25, "stopped"),
            attempt(25, 100, "failed: cuda_runtime", number=2),
            attempt(10, 20, "killed", device="cuda:1", shard="12-of-16"),
        ]
    )
    assert [lane.name for lane in drawn.lanes] == [
        "node1, cuda:0",
        "node1, cuda:1",
        "node2, cuda:0",
    ]
    bars = [[(b.left, b.width, b.kind, b.text) for b in lane.rows[0]] for lane in drawn.lanes]
    assert bars == [
        [(0, 25, "stopped", "3"), (25, 75, "failed", "3")],
        [(10, 10, "killed", "12")],
        [(50, 50, "completed", "3")],
    ]
    assert drawn.lanes[0].rows[0][1].tip == (
        "shard 3-of-16, attempt 2: failed: cuda_runtime after 75 s; from 10:00:25"
    )
    assert drawn.outcomes == [("completed", 1), ("stopped", 1), ("killed", 1), ("failed", 1)]
    assert drawn.speed == ""
    assert drawn.day == "1\N{NO-BREAK SPACE}January\N{NO-BREAK SPACE}2026"


def test_attempts_at_one_time_on_one_device_are_in_rows_of_their_own() -> None:
    drawn = draw_timeline([attempt(0, 50), attempt(10, 60), attempt(50, 90), attempt(60, 100)])
    assert [[b.left for b in row] for row in drawn.lanes[0].rows] == [[0, 50], [10, 60]]


def test_a_clock_that_went_back_makes_no_negative_width() -> None:
    drawn = draw_timeline([attempt(0, 100), attempt(50, 40, "killed")])
    bars = [(b.left, b.width, b.text) for row in drawn.lanes[0].rows for b in row]
    assert bars == [(0, 100, "3"), (50, 0, "")]


def test_the_last_attempts_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_ATTEMPTS", 3)
    drawn = draw_timeline([attempt(t, t + 10) for t in (40, 0, 30, 10, 20)])
    assert drawn.n_left_out == 2
    assert [b.left for b in drawn.lanes[0].rows[0]] == [0, 33.333, 66.667]


def test_no_attempts_no_timeline() -> None:
    assert draw_timeline([]) is None


def test_rates_add_up_to_the_tokens() -> None:
    rng = np.random.default_rng(3)
    starts = BEGAN + rng.uniform(0, 90, 40)
    speeds = [(s, s + rng.uniform(0.1, 10), int(rng.integers(1, 9000))) for s in starts]
    attempts = [attempt(0, 100, speeds=speeds[:10]), attempt(0, 100, speeds=speeds[10:])]
    rates = measure_rates(attempts, BEGAN, BEGAN + 100)
    assert rates.sum() * 100 / len(rates) == pytest.approx(sum(s[2] for s in speeds))
    one = measure_rates([attempt(0, 4, speeds=[(BEGAN + 2, BEGAN + 4, 10)])], BEGAN, BEGAN + 4)
    assert one.tolist() == [0, 5]
    # Work of a second now and then is as fast as it was.
    speeds = [(BEGAN + s, BEGAN + s + 1, 50) for s in (0, 40, 99)]
    rates = measure_rates([attempt(0, 100, speeds=speeds)], BEGAN, BEGAN + 100)
    assert np.flatnonzero(rates).tolist() == [0, 40, 99]
    assert rates.max() == pytest.approx(50)


def test_the_speed_is_drawn_as_high_as_it_is() -> None:
    speeds = [(BEGAN, BEGAN + 2, 10), (BEGAN + 2, BEGAN + 4, 20), (BEGAN + 4, BEGAN + 8, 0)]
    drawn = draw_timeline([attempt(0, 8, speeds=speeds)])
    assert drawn.peak == 10
    points = [tuple(map(float, point.split(","))) for point in drawn.speed.split()]
    assert points == [
        (0, 100),
        *((0, 50), (25, 50)),
        *((25, 0), (50, 0)),
        *((50, 100), (75, 100)),
        *((75, 100), (100, 100)),
        (100, 100),
    ]


# -- ticks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (0, 7, ["0", "2", "4", "6"]),
        (0, 3, ["0", "1", "2", "3"]),
        (0, 1, ["0", "1"]),
        (0, 123456, ["0", "20,000", "40,000", "60,000", "80,000", "100,000", "120,000"]),
        (5, 5, ["5"]),
    ],
)
def test_ticks_of_counts(low: float, high: float, texts: list[str]) -> None:
    assert [tick.text for tick in Axis(low, high).ticks(whole=True)] == texts


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (20, 2001, ["20", "50", "100", "200", "500", "1,000", "2,000"]),
        (30, 36, ["30", "31", "32", "33", "34", "35", "36"]),
        (0.02, 3, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
    ],
)
def test_ticks_of_logarithms(low: float, high: float, texts: list[str]) -> None:
    ticks = Axis(low, high, is_log=True).ticks()
    assert [tick.text for tick in ticks] == texts
    for tick in ticks:
        value = float(tick.text.replace(",", ""))
        expected = 100 * math.log(value / low) / math.log(high / low)
        assert tick.at == pytest.approx(expected, abs=1e-3)


def test_any_axis_has_ticks_inside_and_not_too_many() -> None:
    rng = np.random.default_rng(4)
    for _ in range(500):
        low = float(10 ** rng.uniform(-8, 8))
        high = low * float(10 ** rng.uniform(0.001, 9))
        for axis in (Axis(low, high), Axis(-high, low), Axis(low, high, is_log=True)):
            ticks = axis.ticks()
            assert 2 <= len(ticks) <= 14, axis
            values = [float(tick.text.replace(",", "")) for tick in ticks]
            assert values == sorted(set(values))
            assert all(axis.low * 0.999 <= v <= axis.high * 1.001 for v in values if v > 0), axis
            assert [axis.percent(v) for v in values] == pytest.approx(
                [tick.at for tick in ticks], abs=0.01
            )


@pytest.mark.parametrize(
    ("seconds", "first", "n"),
    [(3, "10:00:00", 4), (90, "10:00:00", 7), (900, "10:00", 4), (7200, "10:00", 5)],
)
def test_ticks_of_times(seconds: float, first: str, n: int) -> None:
    ticks = Axis(BEGAN, BEGAN + seconds).time_ticks()
    assert ticks[0].text == first
    assert len(ticks) == n
    assert ticks[0].at == 0


def test_ticks_of_days() -> None:
    ticks = Axis(BEGAN, BEGAN + 3 * 86400).time_ticks()
    assert [tick.text for tick in ticks][:2] == ["01 Jan 12:00", "02 Jan 00:00"]
    assert ticks[1].at == pytest.approx(100 * 14 / 72, abs=1e-3)
    long = Axis(BEGAN, BEGAN + 400 * 86400).time_ticks()
    assert 2 <= len(long) <= 8
    assert ":" not in long[0].text


def test_numbers_as_people_write_them() -> None:
    assert [write_number(n) for n in (0.05, 1200, 1e6, -3)] == ["0.05", "1,200", "1,000,000", "-3"]
