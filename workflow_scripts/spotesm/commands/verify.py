"""Check an `embeddings.h5` against its FASTA, and some of its rows against fair-esm."""

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.base.paths import weights_manifest
from spotesm.hdf5.reader import Embeddings
from spotesm.model.reference import reference_values
from spotesm.sequences.digests import digest_sequence
from spotesm.sequences.fasta import RejectedSequence, normalise, read_fasta
from spotesm.sequences.rejected import TRANSLATE, read_rejected
from spotesm.weights.sources import Weights, load_verified

ROWS_AT_ONCE = 4096
# How far a value may be off, in units of the largest one of its row.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("fasta", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many rows to recompute.",
)
@click.option("--seed", type=int, help="Which ones; random if left out.")
@click.option(
    "--rejected",
    type=click.Path(path_type=Path),
    help="The rejected records; rejected.tsv beside the file if left out.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="The weights' manifest; below resources/weights if left out.",
)
def verify(
    file: Path,
    fasta: tuple[Path, ...],
    rows: int,
    seed: int | None,
    rejected: Path | None,
    weights: Path | None,
) -> None:
    """Check an embeddings.h5 against its FASTA, and some of its rows against fair-esm.

    FASTA are the dataset's inputs, in the config's order; of contigs it is their orfs.fasta. Run it
    where the workflow ran, or name the manifest of the weights.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with Embeddings(file) as embeddings:
        check(embeddings, fasta, rejected or file.with_name("rejected.tsv"), rows, seed, weights)


def check(
    embeddings: Embeddings,
    fasta: Sequence[Path],
    rejected: Path,
    n_recomputed: int,
    seed: int | None,
    manifest: Path | None,
) -> None:
    """Check everything, and say what held.

    Args:
        rejected: the TSV of the records that have no row.
        n_recomputed: how many rows are computed anew; `seed` chooses them.
        manifest: of the weights; None to find it where the workflow keeps it.

    Raises:
        IncompleteError: something does not hold.
    """
    n_rows = check_records(embeddings, fasta, rejected)
    click.echo(f"{n_rows} rows are the records of the FASTA, in order: ids, lengths, digests")
    check_finite(embeddings)
    click.echo(f"all values of {', '.join(embeddings.outputs)} are finite")
    rows = random.Random(seed).sample(range(n_rows), min(n_recomputed, n_rows))
    if rows:
        weights = Weights.read(manifest or find_manifest(embeddings))
        sequences = accepted_sequences(fasta, rejected)
        worst = recompute(embeddings, sequences, rows, weights)
        click.echo(f"{len(rows)} rows recomputed by fair-esm: at most {worst:.1e} off, relatively")


def check_records(embeddings: Embeddings, fasta: Sequence[Path], rejected: Path) -> int:
    """Check that the rows are the records that were not rejected, in order; how many there are."""
    n_rows = 0
    for row, (expected, actual) in enumerate(
        zip_longest(accepted_records(fasta, rejected), stored_records(embeddings))
    ):
        if expected is None or actual is None:
            more = "FASTA" if actual is None else "file"
            raise IncompleteError(
                f"{embeddings.path}: from row {row} on, the {more} has more records"
            )
        for name, wanted, found in zip(("id", "length", "digest"), expected, actual, strict=True):
            if wanted != found:
                raise IncompleteError(
                    f"{embeddings.path}, row {row}: its {name} is {found!r}, "
                    f"but the FASTA says {wanted!r}"
                )
        n_rows = row + 1
    return n_rows


def accepted_records(fasta: Sequence[Path], rejected: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield id, length and digest of every record that is not in `rejected`."""
    for identifier, sequence in accepted_sequences(fasta, rejected):
        yield identifier, len(sequence), digest_sequence(sequence)


def accepted_sequences(fasta: Sequence[Path], rejected: Path) -> Iterator[tuple[str, bytes]]:
    """Yield id and normalised sequence of every record that is not in `rejected`."""
    ordinals = (line.ordinal for line in read_rejected(rejected) if line.stage != TRANSLATE)
    next_rejected = next(ordinals, None)
    for ordinal, record in enumerate(read_fasta(fasta)):
        if ordinal == next_rejected:
            next_rejected = next(ordinals, None)
            continue
        try:
            yield record.identifier, normalise(record).sequence
        except RejectedSequence as error:
            raise IncompleteError(f"{rejected}: record {ordinal} is missing ({error})") from error


def stored_records(embeddings: Embeddings) -> Iterator[tuple[str, int, bytes]]:
    """Yield id, length and digest of every row."""
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield from zip(
            embeddings.file["sequence_ids"].asstr()[rows],
            embeddings.file["lengths"][rows].tolist(),
            (digest.tobytes() for digest in embeddings.file["digests"][rows]),
            strict=True,
        )


def check_finite(embeddings: Embeddings) -> None:
    """Check every value of every output."""
    for key in embeddings.outputs:
        values = embeddings.file[key]
        for start in range(0, len(values), ROWS_AT_ONCE):
            if not np.isfinite(values[start : start + ROWS_AT_ONCE]).all():
                raise IncompleteError(f"{embeddings.path}: {key} has values that are not finite")


def find_manifest(embeddings: Embeddings) -> Path:
    """Return where the workflow keeps the manifest of the weights that the file names."""
    return weights_manifest(embeddings.attributes["model"], embeddings.attributes["weights"])


def recompute(
    embeddings: Embeddings,
    sequences: Iterable[tuple[str, bytes]],
    rows: Sequence[int],
    weights: Weights,
) -> float:
    """Compute rows by fair-esm's own forward, window by window; the worst relative difference.

    Args:
        sequences: id and sequence of every row.
        rows: which of them are computed.

    Raises:
        IncompleteError: a value is further off than its precision explains.
    """
    if weights.sha256 != embeddings.attributes["weights_sha256"]:
        raise IncompleteError(f"{weights.path}: not the weights that {embeddings.path} names")
    request = embeddings.request
    tolerance = max(TOLERANCES[request.precision], TOLERANCES[request.store_dtype])
    model = load_verified(weights)
    wanted, worst = set(rows), 0.0
    for row, (identifier, sequence) in enumerate(sequences):
        if row not in wanted:
            continue
        spans = request.long_sequences.spans(len(sequence))
        if len(spans) != embeddings.file["windows"][row]:
            continue  # it did not fit into memory in windows of the usual size
        for key, expected in reference_values(model, sequence, spans, embeddings.outputs).items():
            stored = embeddings.value(key, row).astype(np.float32)
            off = float(np.abs(stored - expected).max() / max(1.0, np.abs(expected).max()))
            if not off <= tolerance:
                raise IncompleteError(
                    f"{embeddings.path}, row {row} ({identifier}): {key} is {off:.1e} off what "
                    f"fair-esm computes, more than {tolerance}"
                )
            worst = max(worst, off)
    return worst
