"""The report's figures. Colours that depend on light or dark are set by the page."""

import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np
import plotly.graph_objects as go

from spotesm.report.landscape import Landscape
from spotesm.runs.history import PastAttempt

BLUE, ORANGE, GREY = "#3b82f6", "#f59e0b", "#9ca3af"
COLOURS = {"completed": "#16a34a", "stopped": ORANGE, "killed": "#7c3aed", "failed": "#dc2626"}
NAMES = {"completed": "completed", "stopped": "preempted", "killed": "killed", "failed": "failed"}
LENGTH_COLOURS = [[0, BLUE], [0.5, "#10b981"], [1, ORANGE]]  # seen on light and on dark
LENGTH_BINS = 60
MOST_TIME_BINS = 200
MOST_LABELS = 12


def draw_lengths(lengths: np.ndarray, windowed: np.ndarray) -> go.Figure:
    """Draw how long proteins are, on a logarithmic axis; windowed or truncated ones apart."""
    edges = np.geomspace(max(1, lengths.min(initial=1)), lengths.max(initial=1) + 1, LENGTH_BINS)
    edges = np.unique(np.round(edges))
    figure = layout("residues", "proteins", barmode="stack")
    kinds = (("whole", ~windowed, BLUE), ("windowed or truncated", windowed, ORANGE))
    for name, chosen, colour in kinds:
        counts, _ = np.histogram(lengths[chosen], edges)
        if counts.any():
            figure.add_bar(
                x=np.sqrt(edges[:-1] * edges[1:]).tolist(),
                y=counts.tolist(),
                width=np.diff(edges).tolist(),
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=[
                    f"{first:.0f} to {last - 1:.0f}" for first, last in itertools.pairwise(edges)
                ],
                hovertemplate="%{customdata} residues: %{y}<extra>%{fullData.name}</extra>",
            )
    figure.update_xaxes(type="log", range=np.log10(edges[[0, -1]]).tolist())
    return figure


def draw_timeline(attempts: Sequence[PastAttempt]) -> go.Figure | None:
    """Draw when which shard was worked on, where, and how each attempt ended."""
    if not attempts:
        return None
    figure = layout("", "", barmode="overlay", bargap=0.3, showlegend=True)
    for kind, colour in COLOURS.items():
        own = [a for a in attempts if a.outcome.partition(":")[0] == kind]
        if own:
            figure.add_bar(
                orientation="h",
                base=[moment(a.start) for a in own],
                x=[max(a.seconds, 0.05) * 1000 for a in own],
                y=[place(a) for a in own],
                name=NAMES[kind],
                marker={"color": colour, "line": {"width": 1, "color": "rgba(255,255,255,0.7)"}},
                text=[a.shard.partition("-of-")[0] for a in own],
                textposition="inside",
                insidetextanchor="middle",
                textfont={"color": "#ffffff"},
                customdata=[[a.shard, a.number, a.outcome, f"{a.seconds:.1f} s"] for a in own],
                hovertemplate="shard %{customdata[0]}, attempt %{customdata[1]}: %{customdata[2]}, "
                "%{customdata[3]}<extra></extra>",
            )
    figure.update_xaxes(type="date")
    figure.update_yaxes(automargin=True, type="category")
    return figure


def draw_throughput(attempts: Sequence[PastAttempt]) -> go.Figure | None:
    """Draw tokens/s of all devices together over time."""
    speeds = [speed for attempt in attempts for speed in attempt.speeds]
    if not speeds:
        return None
    starts, ends, tokens = np.array(speeds).T
    seconds = max(ends.max() - starts.min(), 1e-3)
    edges = np.linspace(starts.min(), ends.max(), min(MOST_TIME_BINS, len(speeds) + 1) + 1)
    rates = np.zeros(len(edges) - 1)
    for start, end, count in zip(starts, ends, tokens, strict=True):
        overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
        rates += np.maximum(overlap, 0) * count / max(end - start, 1e-3)
    rates /= seconds / len(rates)
    figure = layout("", "tokens/s")
    figure.add_scatter(
        x=[moment(edge) for edge in edges],
        y=[*rates.tolist(), float(rates[-1])],
        line={"shape": "hv", "color": BLUE},
        fill="tozeroy",
        hovertemplate="%{y:,.0f} tokens/s<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(type="date")
    figure.update_yaxes(rangemode="tozero")
    return figure


def draw_map(landscape: Landscape) -> go.Figure:
    """Draw the embeddings in two dimensions, coloured by length or label; ids on hover."""
    figure = layout("", "")
    # Plotly takes text for HTML, of which ids must not be.
    names = [escape(identifier) for identifier in landscape.ids]
    colours = palette(landscape.labels or [])
    for method, points in landscape.maps.items():
        common = {
            "x": np.round(points[:, 0], 4).tolist(),
            "y": np.round(points[:, 1], 4).tolist(),
            "text": [
                f"{name}<br>{n} residues"
                for name, n in zip(names, landscape.lengths.tolist(), strict=True)
            ],
            "mode": "markers",
            "hovertemplate": "%{text}<extra></extra>",
            "name": method,
            "visible": method == "PCA",
        }
        marker = {"size": 7, "opacity": 0.75, "line": {"width": 0}}
        if landscape.labels is None:
            logs = np.log10(landscape.lengths)
            ticks = np.unique(np.round(np.linspace(logs.min(), logs.max(), 5), 2))
            marker |= {
                "color": np.round(logs, 3).tolist(),
                "colorscale": LENGTH_COLOURS,
                "showscale": True,
                "colorbar": {
                    "title": {"text": "residues"},
                    "tickvals": ticks.tolist(),
                    "ticktext": [f"{10**tick:.0f}" for tick in ticks],
                    "thickness": 12,
                },
            }
        else:
            marker["color"] = [colours.get(label, GREY) for label in landscape.labels]
        figure.add_scattergl(**common, marker=marker, showlegend=False)
    figure.update_layout(margin={"l": 8, "r": 8, "t": 8, "b": 8})
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    for label, colour in colours.items():
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=escape(label),
            marker={"size": 9, "color": colour},
        )
    return figure


def palette(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each of the most frequent labels; the others have none."""
    common = Counter(filter(None, labels)).most_common(MOST_LABELS)
    return {
        label: f"hsl({360 * place // len(common)}, 65%, 50%)"
        for place, (label, _) in enumerate(common)
    }


def layout(x: str, y: str, **options: object) -> go.Figure:
    """Return an empty figure whose page decides on size and colours."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        margin={"l": 56, "r": 16, "t": 16, "b": 44},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        **options,
    )
    return figure


def place(attempt: PastAttempt) -> str:
    """Name the host and device that an attempt ran on."""
    return escape(f"{attempt.host}, {attempt.device}")


def moment(seconds: float) -> str:
    """Write seconds since 1970 as plotly reads times, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
