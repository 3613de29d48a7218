"""Colours of the map: places on a scale, and in a palette."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from spotesm.report import page
from spotesm.report.colours import (
    MOST_CATEGORIES,
    Palette,
    Scale,
    colour_by_labels,
    colour_by_numbers,
    read_number,
)

MANY = [str(n) for n in range(1, MOST_CATEGORIES + 2)]


def test_lengths_are_on_a_logarithmic_scale_with_round_ticks() -> None:
    lengths = [10] * 3 + [100] * 94 + [1000] * 3
    scale = colour_by_numbers("residues", lengths)
    assert (scale.places[0], scale.places[50], scale.places[-1]) == (0, 50, 100)
    assert [tick.text for tick in scale.ticks] == ["10", "20", "50", "100", "200", "500", "1,000"]
    assert scale.ticks[1].at == pytest.approx(50 * math.log10(2), abs=1e-3)
    assert scale.is_log
    assert not scale.clipped
    assert scale.n_missing == 0


def test_a_few_odd_numbers_do_not_take_the_scale() -> None:
    scale = colour_by_numbers("x", [-1e9, *range(1000), 1e9])
    assert scale.clipped
    assert (scale.places[0], scale.places[-1]) == (0, 100)
    assert scale.places[501] == pytest.approx(50, abs=1)
    assert not scale.is_log
    assert all(0 <= float(tick.text) <= 1000 for tick in scale.ticks)


def test_numbers_without_spread() -> None:
    assert colour_by_numbers("x", [7, 7, 7]).places == [50, 50, 50]
    assert [tick.text for tick in colour_by_numbers("x", [7, 7]).ticks] == ["7"]
    scale = colour_by_numbers("x", [0, *[5] * 500, 9])  # the percentiles agree, not all numbers
    assert (scale.places[0], scale.places[-1]) == (0, 100)


@pytest.mark.parametrize("missing", ["", "NA", "nan", "None", "-", "?"])
def test_many_numbers_are_a_scale_with_gaps(missing: str) -> None:
    scale = colour_by_labels("x", [missing, *MANY])
    assert isinstance(scale, Scale)
    assert scale.places[0] is None
    assert scale.n_missing == 1
    np.testing.assert_allclose(scale.places[1:], 100 * np.log(range(1, 14)) / np.log(13), atol=0.1)


def test_few_numbers_are_categories_in_their_order() -> None:
    palette = colour_by_labels("cluster", ["10", "2", "2", "2", "-1", ""])
    assert isinstance(palette, Palette)
    assert palette.names == [("-1", 1), ("2", 3), ("10", 1)]
    assert palette.places == [2, 1, 1, 1, 0, None]


@pytest.mark.parametrize("odd", ["A", "1,5", "1_0", "0x10", "infinity", "1e999", "٣", "1 2", "--"])
def test_one_label_that_is_no_number_makes_categories(odd: str) -> None:
    palette = colour_by_labels("x", [*MANY, *MANY, odd])
    assert isinstance(palette, Palette)
    assert palette.places[-1] == -1  # the rarest of fourteen
    assert palette.n_other_names == 2


def test_the_most_frequent_labels_have_colours() -> None:
    labels = [f"f{n}" for n in range(30) for _ in range(n + 1)] + ["", ""]
    palette = colour_by_labels("family", labels)
    assert palette.title == "family"
    assert palette.names == [(f"f{n}", n + 1) for n in range(29, 17, -1)]
    assert palette.n_others == sum(range(1, 19))
    assert palette.n_other_names == 18
    assert palette.n_unlabelled == 2
    for label, place in zip(labels, palette.places, strict=True):
        expected = (int(label[1:]) < 18 and -1) or 29 - int(label[1:]) if label else None
        assert place == expected, label


def test_no_label_at_all() -> None:
    palette = colour_by_labels("x", ["", ""])
    assert palette.names == []
    assert palette.places == [None, None]
    assert palette.n_unlabelled == 2


@pytest.mark.parametrize(
    ("label", "number"),
    [("1", 1), ("-2.5", -2.5), ("+.5e3", 500), ("3.", 3), ("1e-3", 0.001), ("", None), (".", None)],
)
def test_how_numbers_are_written(label: str, number: float | None) -> None:
    assert read_number(label) == number


# -- on paper and screen ---------------------------------------------------------------------------

TEMPLATE = Path(page.__file__).parent / "template"


def luminance(colour: str) -> float:
    """Of sRGB, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def variables(dark: bool) -> dict[str, str]:
    light, after = (TEMPLATE / "page.css").read_text().split("@media screen", 1)
    named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return named | (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", after)) if dark else {})


@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_seen_on_its_ground(dark: bool) -> None:
    """WCAG 2.2, level AA: 4.5 for text, 3 for what is drawn."""
    colours = variables(dark)
    for paper in (colours["paper"], colours["card"]):
        for text in ("ink", "faint", "accent"):
            assert contrast(colours[text], paper) >= 4.5, text
    for bar in ("completed", "stopped", "killed", "failed"):
        assert contrast(colours["on-bar"], colours[bar]) >= 4.5, bar
    assert contrast(colours["warning"], colours["warning-paper"]) >= 4.5
    script = (TEMPLATE / "page.js").read_text()
    categories = re.findall(r'"(#[0-9a-f]{6})"', script)
    assert len(set(categories)) == MOST_CATEGORIES
    drawn = [colours[name] for name in ("whole", "cut", "low", "middle", "high", "none")]
    for colour in categories + drawn:
        assert contrast(colour, colours["paper"]) >= 3, colour
