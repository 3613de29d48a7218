"""Check an `embeddings.h5` against its FASTA, and some rows against an independent forward."""

import json
import logging
import random
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import chdir
from itertools import pairwise, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch

from spotesm.base.failures import IncompleteError, InputError, WeightsError
from spotesm.base.paths import weights_manifest
from spotesm.commands.progress import progress
from spotesm.merged.integrity import check_integrity
from spotesm.merged.reader import Embeddings, opened
from spotesm.model.independent import (
    Forward,
    NotInstalledError,
    independent_forward,
    reference_values,
)
from spotesm.request.fasta_files import is_pipe, spool
from spotesm.request.outputs import CONTACTS, output_of
from spotesm.sequences.compression import open_by_content
from spotesm.sequences.digests import digest_sequence
from spotesm.sequences.fasta import BOM, RejectedSequence, normalise, read_fasta
from spotesm.sequences.rejected import TRANSLATE, read_rejected
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared, default_folder

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
    """Check an embeddings.h5 against its FASTA, and some rows against an independent forward.

    That is fair-esm's own of ESM-2 and ESM-1, and transformers' of ESM C, if it is installed.

    FASTA are the dataset's inputs, in the config's order; of contigs it is their orfs.fasta. The
    weights are looked for where the workflow ran, and where this runs.

    \b
      spotesm verify results/demo/embeddings.h5 resources/demo.fasta
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with opened(file) as embeddings, TemporaryDirectory() as folder:
        # Everything is read twice.
        files = [spool(path, Path(folder)) if is_pipe(path) else path for path in fasta]
        check(embeddings, files, rejected or file.with_name("rejected.tsv"), rows, seed, weights)


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
        InputError: what it is to be compared with cannot be read.
    """
    chosen = choose_rows(embeddings, n_recomputed, random.Random(seed))
    with progress("compared with the FASTA", len(embeddings), "rows") as advance:
        sequences = check_records(embeddings, fasta, rejected, set(chosen), advance)
    click.echo(
        f"{len(embeddings)} rows are the records of the FASTA, in order: ids, lengths, digests"
    )
    n_rejected = check_headers(embeddings, fasta, rejected)
    click.echo(f"every header of the FASTA is one of these rows or of {n_rejected} rejected ones")
    stored = sum(len(embeddings.file[key]) for key in embeddings.outputs)
    with progress("values looked at", stored, "rows") as advance:
        check_integrity(embeddings, advance)
    keys = ", ".join(embeddings.outputs)
    click.echo(f"all values of {keys} are finite, and as their checksums say")
    if chosen:
        try:
            forward = load_forward(embeddings, manifest)
        except NotInstalledError as error:
            click.echo(f"no rows recomputed: that {error}")
            return
        with progress(f"recomputed by {forward.name}", len(chosen), "rows") as advance:
            worst = recompute(embeddings, sequences, forward, advance)
        click.echo(
            f"{len(chosen)} rows recomputed by {forward.name}: at most {worst:.1e} off, relatively"
        )


def choose_rows(embeddings: Embeddings, n: int, rng: random.Random) -> list[int]:
    """Choose rows to recompute; where some were reused, half of them among those."""
    reused = np.flatnonzero(embeddings.file["reused"][:]) if "reused" in embeddings.file else []
    chosen = rng.sample(list(reused), min((n + 1) // 2, len(reused)))
    others = rng.sample(range(len(embeddings)), min(n, len(embeddings)))
    return list(dict.fromkeys([*map(int, chosen), *others]))[: len(others)]


# -- the records -----------------------------------------------------------------------------------


def check_records(
    embeddings: Embeddings,
    fasta: Sequence[Path],
    rejected: Path,
    wanted: Collection[int],
    advance: Callable[[int], object],
) -> dict[int, tuple[str, bytes]]:
    """Check that the rows are the records that were not rejected, in order.

    Args:
        advance: is told how many more rows have been looked at.

    Returns:
        Id and sequence of the rows `wanted`.
    """
    sequences = {}
    for row, (expected, actual) in enumerate(
        zip_longest(accepted_sequences(fasta, rejected), stored_records(embeddings, advance))
    ):
        if expected is None or actual is None:
            more = "FASTA" if actual is None else "file"
            raise IncompleteError(
                f"{embeddings.path}: from row {row} on, the {more} has more records"
            )
        identifier, sequence = expected
        stated = identifier, len(sequence), digest_sequence(sequence)
        for name, of_fasta, found in zip(("id", "length", "digest"), stated, actual, strict=True):
            if of_fasta != found:
                raise IncompleteError(
                    f"{embeddings.path}, row {row}: its {name} is {found!r}, "
                    f"but the FASTA says {of_fasta!r}"
                )
        if row in wanted:
            sequences[row] = expected
    return sequences


def check_headers(embeddings: Embeddings, fasta: Sequence[Path], rejected: Path) -> int:
    """Check that there are as many rows and rejected records as headers; how many are rejected.

    The split and `accepted_sequences` share a reader; a record that it lost would miss in both.
    """
    n_rejected, n_headers = len(read_ordinals(rejected)), sum(map(count_headers, fasta))
    if n_headers != len(embeddings) + n_rejected:
        raise IncompleteError(
            f"{embeddings.path}: {len(embeddings)} rows and {n_rejected} rejected records, but the "
            f"FASTA has {n_headers} headers"
        )
    return n_rejected


def count_headers(fasta: Path) -> int:
    """Count the headers of a file line by line, those that are glued to another line, too."""
    n_headers = 0
    with open(fasta, "rb", buffering=0) as raw:
        for lines in open_by_content(raw, str(fasta)):
            for line in re.split(rb"[\r\n]+", lines) if b">" in lines else ():
                before, mark, _ = line.partition(b">")
                glued = n_headers and b"<" not in before
                n_headers += bool(mark and (glued or before in (b"", BOM)))
    return n_headers


def accepted_sequences(fasta: Sequence[Path], rejected: Path) -> Iterator[tuple[str, bytes]]:
    """Yield id and normalised sequence of every record that is not in `rejected`."""
    ordinals = iter(read_ordinals(rejected))
    next_rejected, n_records = next(ordinals, None), 0
    for ordinal, record in enumerate(read_fasta(fasta)):
        n_records = ordinal + 1
        if ordinal == next_rejected:
            next_rejected = next(ordinals, None)
            continue
        try:
            yield record.identifier, normalise(record).sequence
        except RejectedSequence as error:
            raise IncompleteError(f"{rejected}: record {ordinal} is missing ({error})") from error
    if next_rejected is not None:
        raise IncompleteError(
            f"{rejected}: lists record {next_rejected}, but the FASTA has {n_records}; name all "
            "FASTA files of the dataset, and its own rejected.tsv"
        )


def read_ordinals(rejected: Path) -> array:
    """Return the places in the input of the records that a rejected.tsv lists, ascending.

    Raises:
        InputError: it cannot be read, is something else, or is not in order.
    """
    try:
        lines = (line for line in read_rejected(rejected) if line.stage != TRANSLATE)
        ordinals = array("q", (line.ordinal for line in lines))
    except OSError as error:
        raise InputError(
            f"{rejected}: cannot be read ({error.strerror}); it lists the records without a row: "
            "name the dataset's rejected.tsv by --rejected"
        ) from error
    for before, after in pairwise(ordinals):
        if after <= before:
            raise InputError(f"{rejected}: {after} after {before}: not in order; merge again")
    return ordinals


def stored_records(
    embeddings: Embeddings, advance: Callable[[int], object]
) -> Iterator[tuple[str, int, bytes]]:
    """Yield id, length and digest of every row."""
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(embeddings)))
        yield from zip(
            embeddings.file["sequence_ids"].asstr()[rows],
            embeddings.file["lengths"][rows].tolist(),
            (digest.tobytes() for digest in embeddings.file["digests"][rows]),
            strict=True,
        )
        advance(rows.stop - start)


# -- against another forward -----------------------------------------------------------------------


def find_manifest(embeddings: Embeddings, named: Path | None) -> tuple[Path, Path]:
    """Return the manifest of the weights that the file names, and the folder its paths start at.

    Args:
        named: a manifest; None to look where this runs, and where the workflow ran.

    Raises:
        WeightsError: there is none.
    """
    model = json.loads(embeddings.attributes["config"]).get("model", {})
    source = model.get("weights", embeddings.attributes["weights"])
    usual = weights_manifest(embeddings.attributes["model"], source, model.get("adapter", ""))
    if named is not None:
        if not named.is_file():
            raise WeightsError(f"{named}: no such file; name the weights' manifest, {usual}")
        # It lies where `usual` says, below the folder the workflow ran in.
        above = named.absolute().parents
        return named, above[min(len(usual.parts), len(above)) - 1]
    run_folder = embeddings.path.resolve().parent.parent.parent  # of results/NAME/embeddings.h5
    for folder in (Path.cwd(), run_folder):
        if (folder / usual).is_file():
            return folder / usual, folder
    raise WeightsError(
        f"{usual}: no such file, here or in {run_folder}; run verify where the workflow ran, or "
        "name the weights' manifest by --weights (--rows 0 needs none)"
    )


def read_weights(manifest: Path) -> Weights:
    """Read a manifest that a user named.

    Raises:
        WeightsError: it is something else.
    """
    try:
        weights = Weights.read(manifest)
    except (OSError, WeightsError) as error:
        raise WeightsError(
            f"{manifest}: is no manifest of weights; --weights wants the .json that fetch_weights "
            "wrote beside or for them"
        ) from error
    if weights.model not in ARCHITECTURES or not isinstance(weights.path, str):
        raise WeightsError(f"{manifest}: is the manifest of no model we know")
    return weights


def load_forward(embeddings: Embeddings, manifest: Path | None) -> Forward:
    """Return an independent forward of the weights that the file names.

    Raises:
        IncompleteError: they, or what jobs have mapped of them, are not what they were.
        NotInstalledError: the library that has it is not installed.
        WeightsError: they are not there.
    """
    found, folder = find_manifest(embeddings, manifest)
    weights = read_weights(found)
    if weights.sha256 != embeddings.attributes["weights_sha256"]:
        raise IncompleteError(f"{weights.source}: not the weights that {embeddings.path} names")
    check_prepared(embeddings, weights, folder)
    with chdir(Path.cwd() if Path(weights.path).exists() else folder):
        return independent_forward(weights.open())


def recompute(
    embeddings: Embeddings,
    sequences: Mapping[int, tuple[str, bytes]],
    forward: Forward,
    advance: Callable[[int], object],
) -> float:
    """Compute rows by another forward, window by window; the worst relative difference.

    Args:
        sequences: id and sequence of the rows to compute.
        advance: is told how many more rows have been computed.

    Raises:
        IncompleteError: a value is further off than its precision explains.
    """
    request = embeddings.request
    tolerance = max(TOLERANCES[request.precision], TOLERANCES[request.store_dtype])
    worst = 0.0
    for row, (identifier, sequence) in sorted(sequences.items()):
        spans = request.long_sequences.spans(len(sequence))
        # Else it did not fit into memory in windows of the usual size.
        if len(spans) == embeddings.file["windows"][row]:
            expected = reference_values(forward, sequence, spans, embeddings.outputs)
            for key, off in differences(embeddings, row, expected):
                if not off <= tolerance:
                    raise IncompleteError(
                        f"{embeddings.path}, row {row} ({identifier}): {key} is {off:.1e} off "
                        f"what {forward.name} computes, more than {tolerance}"
                    )
                worst = max(worst, off)
        advance(1)
    return worst


def differences(
    embeddings: Embeddings, row: int, expected: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """Yield how far a row's values of each output are off, relatively to the largest of them."""
    for key, values in expected.items():
        stored = embeddings.value(key, row).astype(np.float32)
        # Of probabilities, small ones count for less; the values of a model may all be small.
        unit = 1.0 if output_of(key).name == CONTACTS else np.finfo(np.float32).tiny
        yield key, float(np.abs(stored - values).max() / max(unit, np.abs(values).max()))


def check_prepared(embeddings: Embeddings, weights: Weights, run_folder: Path) -> None:
    """Read all of the prepared weights that jobs have mapped, if they are there.

    Raises:
        IncompleteError: they are not what was prepared.
    """
    named = json.loads(embeddings.attributes["config"]).get("model", {}).get("prepared")
    root = run_folder / named if named else default_folder()
    prepared = Prepared(weights, getattr(torch, embeddings.request.precision), root)
    if prepared.folder.exists() and not prepared.is_right(fully=True):
        raise IncompleteError(
            f"{prepared.folder}: has changed since it was prepared; remove it, and embed again "
            f"what {embeddings.path} holds"
        )
