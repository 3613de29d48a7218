"""Write an `embeddings.h5` in the formats that other tools of the field read.

Nothing is held in memory but a few rows at a time.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import click
import h5py
import numpy as np
import torch

from spotesm.base.durable import replacing
from spotesm.base.failures import InputError, UserError
from spotesm.hdf5.reader import Embeddings
from spotesm.request.outputs import CONTACTS, Key

ROWS_AT_ONCE = 4096
LONGEST_FILE_NAME = 200
SAFE_IN_NAMES = "|:=,+@ "


def read_blocks(embeddings: Embeddings) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ids, lengths and rows, some at a time."""
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        ids = embeddings.file["sequence_ids"].asstr()[rows]
        yield ids, embeddings.file["lengths"][rows], embeddings[rows]


def export_h5(embeddings: Embeddings, output: Path) -> None:
    """Write one dataset a protein; its name is the id, or for odd ones its percent-encoded form.

    The id itself is the attribute `original_id`.
    """
    with replacing(output) as temporary, h5py.File(temporary, "w") as file:
        for ids, _, rows in read_blocks(embeddings):
            for identifier, row in zip(ids, rows, strict=True):
                name = safe_name(identifier)
                if name in file:
                    raise repeated(embeddings, identifier)
                file[name] = row
                file[name].attrs["original_id"] = identifier
        file.attrs.update(embeddings.attributes)


def export_npz(embeddings: Embeddings, output: Path) -> None:
    """Write `ids` (N,) and `embeddings` (N, D); the large array goes by way of a temporary file."""
    ids = np.array(embeddings.ids, dtype=str)
    rows = embeddings.file[embeddings.key]
    with (
        replacing(output) as temporary,
        tempfile.TemporaryDirectory(dir=output.parent) as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        np.save(f"{folder}/ids.npy", ids)
        array = np.lib.format.open_memmap(f"{folder}/embeddings.npy", "w+", rows.dtype, rows.shape)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            array[start : start + ROWS_AT_ONCE] = rows[start : start + ROWS_AT_ONCE]
        array.flush()
        for name in ("ids.npy", "embeddings.npy"):
            archive.write(f"{folder}/{name}", name)


def export_parquet(embeddings: Embeddings, output: Path) -> None:
    """Write a table of id, length and embedding, a list of D numbers."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("Parquet needs pyarrow; install it: pip install pyarrow") from error
    rows = embeddings.file[embeddings.key]
    dimensions = rows.shape[1]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("length", pa.int32()),
            ("embedding", pa.list_(pa.from_numpy_dtype(rows.dtype), dimensions)),
        ]
    )
    with replacing(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for ids, lengths, block in read_blocks(embeddings):
            vectors = pa.FixedSizeListArray.from_arrays(block.reshape(-1), dimensions)
            columns = [pa.array(ids.tolist()), pa.array(lengths), vectors]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def export_pt(embeddings: Embeddings, output: Path) -> None:
    """Write a file a protein, of the content that fair-esm's extract.py gives it."""
    output.mkdir(parents=True, exist_ok=True)
    seen = set()
    for row, identifier in enumerate(embeddings.ids):
        name = safe_name(identifier)
        if name in seen:
            raise repeated(embeddings, identifier)
        seen.add(name)
        content: dict = {"label": identifier}
        for key in embeddings.outputs:
            add_output(content, embeddings, key, row)
        with replacing(output / f"{name}.pt") as temporary:
            torch.save(content, temporary)


def add_output(content: dict, embeddings: Embeddings, key: str, row: int) -> None:
    """Add one output of one record under fair-esm's name for it."""
    output, layer = (parsed := Key.parse(key)).output, parsed.layer
    values = torch.from_numpy(embeddings.value(key, row))
    if output.name == CONTACTS:
        values = values.squeeze(0)  # fair-esm has one map a protein
    if output.per_layer:
        content.setdefault(output.fair_esm, {})[layer] = values
    else:
        content[output.fair_esm] = values


def safe_name(identifier: str) -> str:
    """Return a name for a file or a dataset: the id, odd characters percent-encoded.

    One that would be too long is cut, and ends with a digest of all of it.
    """
    name = quote(identifier, safe=SAFE_IN_NAMES)
    if not name.strip("."):  # `.` and `..` are folders
        name = name.replace(".", "%2E")
    if len(name) <= LONGEST_FILE_NAME:
        return name or "%"
    digest = hashlib.blake2b(identifier.encode(), digest_size=16).hexdigest()
    return f"{name[: LONGEST_FILE_NAME - len(digest) - 1]}~{digest}"


def repeated(embeddings: Embeddings, identifier: str) -> InputError:
    """Return what to say where each id must be unique."""
    return InputError(
        f"{embeddings.path}: several records have the id {identifier!r}, but this format has one "
        "place for each; use npz or parquet"
    )


EXPORTS: dict[str, Callable[[Embeddings, Path], None]] = {
    "h5": export_h5,
    "npz": export_npz,
    "parquet": export_parquet,
    "pt": export_pt,
}


@click.command()
@click.argument("format", type=click.Choice(list(EXPORTS)))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--key", help="Which output, such as bos/33; the first one if left out.")
def export(format: str, file: Path, output: Path, key: str | None) -> None:
    """Write an embeddings.h5 in a format that other tools read.

    \b
    h5        one dataset a protein, named by its id, as UniProt offers embeddings for download
    npz       numpy: `ids` and `embeddings`
    parquet   a table of id, length and embedding, for Arrow, pandas, polars and DuckDB
    pt        a folder of one file a protein, as fair-esm's extract.py leaves it
    """
    with Embeddings(file, key=key) as embeddings:
        if embeddings.key is None and format != "pt":
            raise InputError(f"{file}: has no output with one row a record; use pt")
        EXPORTS[format](embeddings, output)
