"""Write an `embeddings.h5` in the formats that other tools of the field read.

Nothing is held in memory but some rows at a time, and the ids.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

import click

from spotesm.base.failures import InputError
from spotesm.commands.exports.biotrainer import BIOTRAINER
from spotesm.commands.exports.checks import check_output, check_places
from spotesm.commands.exports.fair_esm import PT
from spotesm.commands.exports.format import Format
from spotesm.commands.exports.h5ad import H5AD
from spotesm.commands.exports.npz import NPZ
from spotesm.commands.exports.parquet import PARQUET
from spotesm.commands.exports.per_protein import H5
from spotesm.commands.exports.records import Records
from spotesm.commands.exports.skbio import SKBIO
from spotesm.commands.exports.text import CSV, TSV
from spotesm.commands.progress import progress
from spotesm.merged.reader import Embeddings, opened
from spotesm.request.outputs import output_of
from spotesm.sequences.accessions import accession_of

FORMATS = {
    format.name: format for format in (H5, NPZ, PARQUET, CSV, TSV, H5AD, PT, BIOTRAINER, SKBIO)
}

WHOLE = "id"
NAMES: dict[str, Callable[[str], str]] = {
    WHOLE: str,
    "accession": lambda identifier: accession_of(identifier) or identifier,
}

HELP = "\n".join(
    [
        "Write an embeddings.h5 in a format that other tools read.",
        "",
        "\b",
        *(f"{format.name:<11}{format.about}" for format in FORMATS.values()),
        "",
        "\b",
        "spotesm export npz results/demo/embeddings.h5 demo.npz",
        "spotesm export h5 results/demo/embeddings.h5 residues.h5 --key residues/33",
    ]
)


@click.command(help=HELP)
@click.argument("format", type=click.Choice(list(FORMATS)))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--key", help="Which output, such as bos/33 or residues/33; `embeddings` if left out."
)
@click.option(
    "--fasta",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The dataset's FASTA, for formats that hold sequences; again for each, in order.",
)
@click.option(
    "--ids",
    type=click.Choice(list(NAMES)),
    default=WHOLE,
    help="What records are called: by the whole id (if left out), or by the accession in it, as "
    "protspace looks for UniProt's annotations.",
)
def export(
    format: str, file: Path, output: Path, key: str | None, fasta: tuple[Path, ...], ids: str
) -> None:
    """Write an embeddings.h5 in another format, and say what was written."""
    chosen, name = FORMATS[format], NAMES[ids]
    if chosen.needs_fasta != bool(fasta):
        needs = "needs the sequences: give --fasta" if chosen.needs_fasta else "takes no --fasta"
        raise click.UsageError(f"{format} {needs}")
    if not chosen.has_ids and ids != WHOLE:
        raise click.UsageError(f"{format} has no ids; leave out --ids")
    with opened(file) as embeddings:
        keys = choose_keys(embeddings, chosen, key)
        check_output([file, *fasta], output, chosen)
        check_places(embeddings, output, chosen, name)
        with progress(str(output), len(embeddings), "records") as advance:
            records = Records(embeddings, keys, fasta, advance, name)
            chosen.write(records, output)
        click.echo(f"{output}: {describe(records)}, {count_bytes(output):,} bytes")


def choose_keys(embeddings: Embeddings, format: Format, key: str | None) -> list[str]:
    """Return the outputs to write: the one named, or else what the format writes.

    Raises:
        InputError: there is no such output, none fits the format, or one must be named.
    """
    there = embeddings.outputs
    fitting = [name for name in there if format.takes(output_of(name))]
    if key is None:
        if format.all_keys:
            return fitting
        if embeddings.key is not None:
            return [embeddings.key]
        if len(fitting) == 1:
            return fitting
        what = f"name one with --key: {', '.join(fitting)}" if fitting else "none fits"
        raise InputError(f"{embeddings.path}: it has {', '.join(there)}; for {format.name}, {what}")
    if key in fitting:
        return [key]
    if key in there:
        raise InputError(
            f"{key} has no place in {format.name}, which takes {', '.join(fitting) or 'none'}; "
            "h5, npz, parquet and pt take all"
        )
    close = get_close_matches(key, there, 1)
    hint = f"did you mean {close[0]}? It" if close else "it"
    raise InputError(f"{embeddings.path}: has no {key}; {hint} has {', '.join(there)}")


def describe(records: Records) -> str:
    """Say how much was written, of what."""
    of = ", ".join(f"{key} {describe_shape(records, key)}" for key in records.keys)
    return f"{len(records)} records, {of}"


def describe_shape(records: Records, key: str) -> str:
    """Return rows, dimensions and type of an output."""
    values = records.embeddings.file[key]
    return f"({' x '.join(map(str, values.shape))} {values.dtype})"


def count_bytes(output: Path) -> int:
    """Return the size of a file, or of the files in a folder."""
    files: Iterable[Path] = output.iterdir() if output.is_dir() else [output]
    return sum(path.stat().st_size for path in files)
