"""How points are coloured: by a number along a scale, or by a category out of a palette.

The colours themselves are the page's; here are places on the scale, and in the palette.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spotesm.report.ticks import Axis, Tick

MOST_CATEGORIES = 12
PERCENTILES = (1, 99)  # a few odd numbers must not take the whole scale
LOG_SPAN = 10
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NO_NUMBER = ("", "na", "n/a", "nan", "none", "null", "-", "?")


@dataclass(frozen=True)
class Scale:
    """Colours by a number.

    Attributes:
        title: what the number is.
        places: of each point on the scale, in percent; None if it has none.
        ticks: round numbers along the scale.
        is_log: whether it is logarithmic.
        clipped: whether some numbers lie beyond its ends.
        n_missing: points without a number.
    """

    title: str
    places: list[float | None]
    ticks: list[Tick]
    is_log: bool
    clipped: bool
    n_missing: int


@dataclass(frozen=True)
class Palette:
    """Colours by a category.

    Attributes:
        title: what the categories are.
        places: of each point in `names`; -1 for a category that has no colour, None for no label.
        names: the most frequent categories, and how many points each has.
        n_others, n_unlabelled: points without a colour of their own.
        n_other_names: how many categories have none.
    """

    title: str
    places: list[int | None]
    names: list[tuple[str, int]]
    n_others: int
    n_unlabelled: int
    n_other_names: int


def colour_by_numbers(title: str, numbers: Sequence[float | None]) -> Scale:
    """Place numbers on a scale; a logarithmic one where they are positive and span a decade."""
    known = np.array([number for number in numbers if number is not None])
    low, high = np.percentile(known, PERCENTILES, method="nearest").tolist()
    if low == high:
        low, high = known.min().item(), known.max().item()
    axis = Axis(low, high, is_log=known.min() > 0 and high / low >= LOG_SPAN)
    return Scale(
        title,
        [None if number is None else round(axis.percent(number), 1) for number in numbers],
        axis.ticks(),
        axis.is_log,
        bool(known.min() < low or known.max() > high),
        n_missing=len(numbers) - len(known),
    )


def colour_by_labels(title: str, labels: Sequence[str]) -> Scale | Palette:
    """Colour by labels: numbers by a scale if they are many, all else by a palette."""
    numbers = read_numbers(labels)
    if numbers and len({number for number in numbers if number is not None}) > MOST_CATEGORIES:
        return colour_by_numbers(title, numbers)
    counts = Counter(filter(None, labels))
    names = counts.most_common(MOST_CATEGORIES)
    if numbers:
        names.sort(key=lambda name: (read_number(name[0]) is None, read_number(name[0]) or 0))
    place = {name: n for n, (name, _) in enumerate(names)}
    return Palette(
        title,
        [place.get(label, -1) if label else None for label in labels],
        names,
        n_others=counts.total() - sum(count for _, count in names),
        n_unlabelled=len(labels) - counts.total(),
        n_other_names=len(counts) - len(names),
    )


def read_numbers(labels: Sequence[str]) -> list[float | None] | None:
    """Return the labels as numbers, None for a missing one; or None if one is something else."""
    numbers = [read_number(label) for label in labels]
    for label, number in zip(labels, numbers, strict=True):
        if number is None and label.lower() not in NO_NUMBER:
            return None
    return numbers if any(number is not None for number in numbers) else None


def read_number(label: str) -> float | None:
    """Return a label as a finite number, or None."""
    number = float(label) if NUMBER.fullmatch(label) else math.nan
    return number if math.isfinite(number) else None
