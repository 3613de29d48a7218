"""`parquet`: a table for Arrow, pandas, polars and DuckDB."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spotesm.base.durable import replacing
from spotesm.base.failures import UserError
from spotesm.commands.exports.format import Format, any_output
from spotesm.commands.exports.records import Block, Records
from spotesm.request.outputs import CONTACTS, LOGITS

if TYPE_CHECKING:
    import pyarrow


def write_parquet(records: Records, output: Path) -> None:
    """Write a table of id, length and embedding.

    The embedding is a list of D numbers; of residues and logits a list of such lists; of contacts a
    list of maps, one a window, each a list of its rows. What the columns of logits are is metadata
    of the table, `alphabet`, as JSON.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("Parquet needs pyarrow; install it: pip install pyarrow") from error
    number = pa.from_numpy_dtype(records.values.dtype)
    if records.output.name == CONTACTS:
        kind = pa.large_list(pa.large_list(pa.large_list(number)))
    else:
        kind = pa.list_(number, records.values.shape[1])
        kind = pa.large_list(kind) if records.output.ragged else kind
    of_logits = records.output.name == LOGITS
    columns = {"alphabet": json.dumps(records.embeddings.alphabet)} if of_logits else None
    schema = pa.schema(
        [("id", pa.string()), ("length", pa.int32()), pa.field("embedding", kind)], columns
    )
    with (
        replacing(output) as temporary,
        open(temporary, "wb") as file,  # Arrow takes no path that the locale cannot write
        pq.ParquetWriter(file, schema) as writer,
    ):
        for block in records.blocks():
            columns = [
                pa.array(list(map(records.name, block.ids)), pa.string()),
                pa.array(block.lengths),
                _maps(block) if records.output.name == CONTACTS else _vectors(block, records),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _vectors(block: Block, records: Records) -> "pyarrow.Array":
    import pyarrow as pa

    flat = pa.array(block.values.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, block.values.shape[1])
    if not records.output.ragged:
        return vectors
    return pa.LargeListArray.from_arrays(block.offsets, vectors)


def _maps(block: Block) -> "pyarrow.Array":
    """Return each record's maps: lists of lists of lists, all over the same numbers."""
    import pyarrow as pa

    sides = np.sqrt(np.diff(block.offsets) / block.windows).round().astype(np.int64)
    widths = np.repeat(sides, block.windows * sides)  # one a row of a map
    rows = pa.LargeListArray.from_arrays(_offsets(widths), pa.array(block.values.reshape(-1)))
    maps = pa.LargeListArray.from_arrays(_offsets(np.repeat(sides, block.windows)), rows)
    return pa.LargeListArray.from_arrays(_offsets(block.windows), maps)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


PARQUET = Format(
    "parquet",
    "a table of id, length and embedding, for Arrow, pandas, polars and DuckDB",
    write_parquet,
    takes=any_output,
)
