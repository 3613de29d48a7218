"""One HTML page on a dataset: what was computed, how it went, what it looks like. No network."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from spotesm.base.durable import read_json, replacing
from spotesm.base.text import duration
from spotesm.merged.reader import Embeddings
from spotesm.report.colours import Palette, Scale, colour_by_labels, colour_by_numbers
from spotesm.report.figures import OUTCOMES, draw_lengths, draw_timeline
from spotesm.report.labels import Labels, match_labels
from spotesm.report.landscape import Landscape, survey
from spotesm.report.provenance import trace
from spotesm.request.labels import read_labels
from spotesm.runs.history import PastAttempt, read_history
from spotesm.sequences.long_sequences import TRUNCATE
from spotesm.sequences.rejected import read_rejected

log = logging.getLogger(__name__)

MOST_REJECTED_SHOWN = 500
MOST_LENGTHS = 1 << 20


@dataclass(frozen=True)
class ReportJob:
    """What a report is made of.

    Attributes:
        dataset: its name.
        embeddings, rejected, summary: what `merge_shards` wrote.
        checkpoints: the folder with the journals of the shards.
        labels: a TSV of id and label that colours the map, with a header; or None.
        output: the HTML file.
        key: tells it from reports on other results.
    """

    dataset: str
    embeddings: Path
    rejected: Path
    summary: Path
    checkpoints: Path
    labels: Path | None
    output: Path
    key: str = ""


@dataclass(frozen=True)
class Number:
    """A number at the top of the page.

    Attributes:
        is_trivial: whether it says nothing new, and is folded away.
    """

    name: str
    value: str
    is_trivial: bool = False


def report_dataset(job: ReportJob) -> None:
    """Write the page; it needs no other file.

    Raises:
        InputError: the labels cannot be read, or are of no record.
    """
    summary = read_json(job.summary)
    attempts = read_history(job.checkpoints)
    with Embeddings(job.embeddings) as embeddings:
        request = embeddings.request
        labels = find_labels(job, embeddings)
        landscape = survey(embeddings, labels)
        colours = choose_colours(landscape, labels)
        page = load_template().render(
            dataset=job.dataset,
            made_of=job.key,
            summary=summary,
            model=request.model,
            key=next(iter(request.select().row_keys), ""),
            numbers=collect_numbers(summary, attempts),
            lengths=draw_lengths(*read_lengths(embeddings)),
            policy=request.long_sequences,
            timeline=draw_timeline(attempts),
            labels=labels,
            landscape=landscape,
            colours=colours,
            points=landscape and landscape.for_browser(colours),
            rejected=list(itertools.islice(read_rejected(job.rejected), MOST_REJECTED_SHOWN)),
            provenance=trace(embeddings.attributes, job.embeddings, summary.get("reused_from", {})),
        )
    with replacing(job.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %.1f MB", job.output, len(page.encode()) / 1e6)


def load_template() -> Template:
    """Return the page's template; everything put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("spotesm.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["OUTCOMES"] = OUTCOMES
    environment.tests["scale"] = lambda colours: isinstance(colours, Scale)
    return environment.get_template("page.html.j2")


def read_lengths(embeddings: Embeddings) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Return what `draw_lengths` wants; evenly chosen records if they are many."""
    policy = embeddings.request.long_sequences
    step = -(-len(embeddings) // MOST_LENGTHS) or 1
    lengths = embeddings.file["lengths"][::step]
    if policy.policy == TRUNCATE:
        return lengths, lengths > policy.window, policy.window, "truncated"
    return lengths, embeddings.file["windows"][::step] > 1, policy.window, "in windows"


def choose_colours(landscape: Landscape | None, labels: Labels | None) -> Scale | Palette | None:
    """Colour the map by the labels; by length where there are none."""
    if landscape is None:
        if labels:
            log.warning("there are labels, but no map to colour: it needs three records with a row")
        return None
    if labels and landscape.labels:
        return colour_by_labels(labels.title, landscape.labels)
    return colour_by_numbers("residues", landscape.lengths.tolist())


def find_labels(job: ReportJob, embeddings: Embeddings) -> Labels | None:
    """Return the labels of the dataset's records, if the user gave any.

    Raises:
        InputError: they cannot be read, or are of no record.
    """
    if job.labels is None:
        return None
    given = read_labels(job.labels)
    rejected = (line.id for line in read_rejected(job.rejected))
    return match_labels(given, embeddings.iterate_ids(), rejected, job.dataset)


def collect_numbers(summary: dict, attempts: Sequence[PastAttempt]) -> list[Number]:
    """Return what stands at the top of the page."""
    n_records, n_rejected, n_embedded, n_sequences, n_reused = (
        summary[f"n_{name}"] for name in ("records", "rejected", "embedded", "sequences", "reused")
    )
    n_restarts = sum(a.number > 1 for a in attempts)
    n_twice = max(0, sum(a.computed for a in attempts) - n_sequences)
    gpu_hours = sum(a.seconds for a in attempts if a.device.startswith("cuda")) / 3600
    tokens = sum(tokens for a in attempts for _, _, tokens in a.speeds)
    busy = sum(end - start for a in attempts for start, end, _ in a.speeds)
    return [
        Number("proteins embedded", f"{n_embedded:,}"),
        Number("dimensions", f"{summary['embedding_dim']:,}"),
        Number("residues", f"{summary['n_residues']:,}"),
        Number("computing time", duration(summary["seconds"])),
        Number("GPU-hours", f"{gpu_hours:,.2f}", is_trivial=not gpu_hours),
        Number("tokens/s per device", f"{tokens / max(busy, 1e-9):,.0f}", is_trivial=not busy),
        Number("rejected", f"{n_rejected:,} of {n_records:,}", not n_rejected),
        Number("different sequences", f"{n_sequences:,}", n_sequences == n_embedded),
        Number("of them by earlier runs", f"{n_reused:,}", not n_reused),
        Number("restarts", f"{n_restarts:,}", not n_restarts),
        Number("computed twice", f"{n_twice:,}", not n_twice),
    ]
