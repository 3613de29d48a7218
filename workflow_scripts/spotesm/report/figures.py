"""The report's figures, as places in percent of their width and height; the page draws them."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from spotesm.base.text import duration
from spotesm.report.ticks import Axis, Tick
from spotesm.runs.history import PastAttempt

MOST_LENGTH_BINS, LEAST_LENGTH_BINS = 60, 10
MOST_TIME_BINS = 200
MOST_ATTEMPTS = 3000
TEXT_WIDTH = 2.5
OUTCOMES = {
    "completed": "completed",
    "stopped": "preempted",
    "killed": "killed",
    "failed": "failed",
}


@dataclass(frozen=True)
class Bar:
    """A rectangle of a figure, all in percent of it.

    Attributes:
        kind: what it shows; its colour.
        tip: what it says when pointed at.
        text: what stands in it.
    """

    left: float
    width: float
    bottom: float
    height: float
    kind: str
    tip: str
    text: str = ""


@dataclass(frozen=True)
class Histogram:
    """How long proteins are.

    Attributes:
        bars: those of whole proteins, and on top of them those of `cut` ones.
        shortest, median, longest: in residues.
        n_cut: how many were windowed or truncated.
        window: where the longest whole ones end; None if no bar is beyond.
    """

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    shortest: int
    median: float
    longest: int
    n_cut: int
    window: float | None


@dataclass(frozen=True)
class Lane:
    """What one device did.

    Attributes:
        name: of host and device.
        rows: bars that do not overlap, row by row.
    """

    name: str
    rows: list[list[Bar]]


@dataclass(frozen=True)
class Timeline:
    """Which shard was worked on when and where, and how fast all were together.

    Attributes:
        outcomes: how many attempts ended how.
        n_left_out: earlier attempts that are not shown.
        speed: tokens/s over time, as points of a polygon in percent, y downward; or empty.
        peak: the highest, tokens/s.
        rates: tokens/s in each of equal stretches of the time.
    """

    lanes: list[Lane]
    x_ticks: list[Tick]
    outcomes: list[tuple[str, int]]
    n_left_out: int
    day: str
    speed: str
    y_ticks: list[Tick]
    peak: float
    rates: np.ndarray


def draw_lengths(lengths: np.ndarray, cut: np.ndarray, window: int, how: str) -> Histogram | None:
    """Draw how long proteins are, on a logarithmic axis from the shortest to the longest.

    Args:
        lengths: (n,) residues.
        cut: (n,) which were windowed or truncated, which is `how`.
        window: how long one may be that is not.
    """
    if not len(lengths):
        return None
    shortest, longest = int(lengths.min()), int(lengths.max())
    n_bins = min(max(math.ceil(2 * len(lengths) ** 0.5), LEAST_LENGTH_BINS), MOST_LENGTH_BINS)
    edges = np.unique(np.round(np.geomspace(shortest, longest + 1, n_bins + 1)))
    if cut.any() and shortest <= window < longest:  # so that no bar is on both sides
        edges = np.union1d(edges, window + 1)
    counts = {
        kind: np.histogram(lengths[chosen], edges)[0]
        for kind, chosen in (("whole", ~cut), (how, cut))
    }
    highest = int(sum(counts.values()).max())
    x, y = Axis(shortest, longest + 1, is_log=True), Axis(0, highest)
    bars = []
    for place, (first, end) in enumerate(itertools.pairwise(edges)):
        bottom = 0.0
        left = x.percent(first)
        for kind, of_kind in counts.items():
            count = int(of_kind[place])
            height = y.percent(count)
            if count:
                residues = f"{first:.0f}" if end - first == 1 else f"{first:.0f} to {end - 1:.0f}"
                tip = f"{residues} residues: {count:,} {kind}"
                bars.append(Bar(left, round(x.percent(end) - left, 3), bottom, height, kind, tip))
            bottom += height
    return Histogram(
        bars,
        x.ticks(whole=True),
        y.ticks(whole=True),
        shortest,
        float(np.median(lengths)),
        longest,
        int(cut.sum()),
        x.percent(window + 1) if cut.any() else None,
    )


def draw_timeline(attempts: Sequence[PastAttempt]) -> Timeline | None:
    """Draw when which shard was worked on, where, how each attempt ended, and how fast it went."""
    if not attempts:
        return None
    shown = sorted(attempts, key=lambda attempt: attempt.start)[-MOST_ATTEMPTS:]
    start = min(a.start for a in shown)
    end = max(start + 1, *(max(a.end, a.start) for a in shown))
    axis = Axis(start, end)
    places = sorted({(a.host, a.device) for a in shown})
    outcomes = Counter(a.outcome.partition(":")[0] for a in shown)
    rates = measure_rates(shown, start, end)
    peak = float(rates.max(initial=0))
    return Timeline(
        lanes=[
            Lane(
                f"{host}, {device}",
                _stack([a for a in shown if (a.host, a.device) == (host, device)], axis),
            )
            for host, device in places
        ],
        x_ticks=axis.time_ticks(),
        outcomes=[(kind, outcomes[kind]) for kind in OUTCOMES if outcomes[kind]],
        n_left_out=len(attempts) - len(shown),
        day=f"{moment(start).day}\N{NO-BREAK SPACE}{moment(start):%B\N{NO-BREAK SPACE}%Y}",
        speed=_outline(rates / peak) if peak else "",
        y_ticks=Axis(0, peak).ticks() if peak else [],
        peak=peak,
        rates=rates,
    )


def measure_rates(attempts: Sequence[PastAttempt], start: float, end: float) -> np.ndarray:
    """Return tokens/s of all devices together, in equal stretches from `start` to `end`.

    They are as short as what was measured, so that the work of minutes is not spread over a night.
    """
    speeds = [speed for attempt in attempts for speed in attempt.speeds]
    measured = np.median([finish - begin for begin, finish, _ in speeds] or [end - start])
    n_bins = min(MOST_TIME_BINS, math.ceil((end - start) / max(measured, 1e-3)))
    edges = np.linspace(start, end, n_bins + 1)
    rates = np.zeros(len(edges) - 1)
    for begin, finish, tokens in speeds:
        overlap = np.minimum(edges[1:], finish) - np.maximum(edges[:-1], begin)
        rates += np.maximum(overlap, 0) * tokens / max(finish - begin, 1e-3)
    return rates / (edges[1] - edges[0])


def moment(seconds: float) -> datetime:
    """Return a time in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def _stack(attempts: Sequence[PastAttempt], axis: Axis) -> list[list[Bar]]:
    """Put attempts, by start, into as few rows as they need not to overlap."""
    rows: list[list[Bar]] = []
    ends: list[float] = []
    for attempt in attempts:
        row = next((n for n, end in enumerate(ends) if end <= attempt.start), len(rows))
        if row == len(rows):
            rows.append([])
            ends.append(0)
        ends[row] = max(attempt.end, attempt.start)
        rows[row].append(_bar_of(attempt, axis))
    return rows


def _bar_of(attempt: PastAttempt, axis: Axis) -> Bar:
    left = axis.percent(attempt.start)
    width = round(max(axis.percent(attempt.end) - left, 0), 3)
    kind, _, detail = attempt.outcome.partition(":")
    tip = (
        f"shard {attempt.shard}, attempt {attempt.number}: {OUTCOMES[kind]}{detail and ':'}{detail}"
        f" after {duration(attempt.seconds)}; from {moment(attempt.start):%H:%M:%S}"
    )
    number = attempt.shard.partition("-of-")[0]
    return Bar(left, width, 0, 100, kind, tip, number if width >= TEXT_WIDTH else "")


def _outline(heights: np.ndarray) -> str:
    """Return the points of a stepped area, given heights from 0 to 1."""
    edges = np.linspace(0, 100, len(heights) + 1)
    steps = [
        f"{x:.2f},{100 - 100 * height:.2f}"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True)
        for x in (left, right)
    ]
    return " ".join(["0,100", *steps, "100,100"])
