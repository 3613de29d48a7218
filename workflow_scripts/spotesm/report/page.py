"""One HTML page on a dataset: what was computed, how it went, what it looks like. No network."""

import csv
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined, Template, select_autoescape
from plotly.offline import get_plotlyjs

from spotesm.base.durable import read_json, replacing
from spotesm.base.text import duration
from spotesm.hdf5.reader import Embeddings
from spotesm.report.figures import draw_lengths, draw_map, draw_throughput, draw_timeline
from spotesm.report.labels import Labels, match_labels
from spotesm.report.landscape import survey
from spotesm.request.labels import read_labels
from spotesm.runs.history import PastAttempt, read_history

log = logging.getLogger(__name__)

MOST_REJECTED_SHOWN = 500
MOST_LENGTHS = 1 << 20
IDS_AT_ONCE = 1 << 16
PROVENANCE = (
    "model",
    "weights",
    "weights_sha256",
    "outputs",
    "layers",
    "store_dtype",
    "precision",
    "long_sequences",
    "spotesm_version",
    "torch_version",
    "python_version",
    "created",
    "config",
)


@dataclass(frozen=True)
class ReportJob:
    """What a report is made of.

    Attributes:
        dataset: its name.
        embeddings, rejected, summary: what `merge_shards` wrote.
        checkpoints: the folder with the journals of the shards.
        labels: a TSV of id and label that colours the map, with a header; or None.
        output: the HTML file.
    """

    dataset: str
    embeddings: Path
    rejected: Path
    summary: Path
    checkpoints: Path
    labels: Path | None
    output: Path


def report_dataset(job: ReportJob) -> None:
    """Write the page; it needs no other file.

    Raises:
        InputError: the labels cannot be read, or are of no record.
    """
    summary = read_json(job.summary)
    attempts = read_history(job.checkpoints)
    with Embeddings(job.embeddings) as embeddings:
        lengths, windowed = read_lengths(embeddings)
        labels = find_labels(job, embeddings)
        landscape = survey(embeddings, labels)
        provenance = {name: show(embeddings.attributes[name]) for name in PROVENANCE}
    figures = {
        "lengths": draw_lengths(lengths, windowed),
        "timeline": draw_timeline(attempts),
        "throughput": draw_throughput(attempts),
        "map": draw_map(landscape) if landscape else None,
    }
    page = load_template().render(
        dataset=job.dataset,
        untrained=summary["untrained"],
        numbers=collect_numbers(summary, attempts),
        figures={name: f and json.loads(f.to_json()) for name, f in figures.items()},
        landscape=landscape and landscape.for_browser(),
        labels=labels,
        sampled=landscape and landscape.is_sample,
        n_records=len(lengths),
        rejected=list(itertools.islice(read_rejected(job.rejected), MOST_REJECTED_SHOWN)),
        n_rejected=summary["n_rejected"],
        provenance=provenance,
        plotly=get_plotlyjs(),
    )
    with replacing(job.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %.1f MB", job.output, len(page.encode()) / 1e6)


def load_template() -> Template:
    """Return the page's template; everything put into it is escaped."""
    environment = Environment(
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(
        files("spotesm.report").joinpath("template.html.j2").read_text("utf-8")
    )


def read_lengths(embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths (n,), and which records were windowed or truncated; evenly chosen if many."""
    window = json.loads(embeddings.attributes["long_sequences"])
    step = max(1, len(embeddings) // MOST_LENGTHS)
    lengths = embeddings.file["lengths"][::step]
    windowed = embeddings.file["windows"][::step] > 1
    if window["policy"] == "truncate":
        windowed |= lengths > window["window"]
    return lengths, windowed


def find_labels(job: ReportJob, embeddings: Embeddings) -> Labels | None:
    """Return the labels of the dataset's records, if the user gave any.

    Raises:
        InputError: they cannot be read, or are of no record.
    """
    if job.labels is None:
        return None
    given = read_labels(job.labels)
    rejected = (row["id"] for row in read_rejected(job.rejected))
    return match_labels(given, iterate_ids(embeddings), rejected, job.dataset)


def iterate_ids(embeddings: Embeddings) -> Iterator[str]:
    """Yield all ids in order, without holding them all."""
    for start in range(0, len(embeddings), IDS_AT_ONCE):
        yield from embeddings.file["sequence_ids"].asstr()[start : start + IDS_AT_ONCE]


def read_rejected(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rejected records."""
    with open(path, newline="", encoding="utf-8") as tsv:
        yield from csv.DictReader(tsv, delimiter="\t")


def collect_numbers(summary: dict, attempts: Sequence[PastAttempt]) -> list[tuple[str, str]]:
    """Return what stands at the top of the page: labels and values."""
    seconds = max(summary["seconds"], 1e-9)
    gpu_hours = sum(a.seconds for a in attempts if a.device.startswith("cuda")) / 3600
    tokens = sum(tokens for a in attempts for _, _, tokens in a.speeds)
    busy = sum(end - start for a in attempts for start, end, _ in a.speeds)
    computed = sum(a.computed for a in attempts)
    numbers = [
        ("proteins embedded", f"{summary['n_embedded']:,}"),
        ("records in the input", f"{summary['n_records']:,}"),
        ("different sequences", f"{summary['n_sequences']:,}"),
        ("rejected", f"{summary['n_rejected']:,}"),
        ("residues", f"{summary['n_residues']:,}"),
        ("dimensions", f"{summary['embedding_dim']:,}"),
        ("computing time", duration(seconds)),
        ("restarts", f"{sum(a.number > 1 for a in attempts):,}"),
        ("computed twice", f"{max(0, computed - summary['n_sequences']):,}"),
    ]
    if busy:
        numbers.append(("tokens/s per device", f"{tokens / busy:,.0f}"))
    if gpu_hours:
        numbers.append(("GPU-hours", f"{gpu_hours:,.2f}"))
    return numbers


def show(value: object) -> str:
    """Write an attribute as text."""
    if isinstance(value, np.ndarray):
        return ", ".join(map(str, value.tolist()))
    return str(value)
