"""`npz`: arrays of numpy."""

import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from spotesm.base.durable import replacing
from spotesm.base.failures import InputError
from spotesm.commands.exports.format import Format, any_output
from spotesm.commands.exports.records import BYTES_AT_ONCE, Records
from spotesm.request.outputs import LOGITS

# Texts of numpy are all as wide as the longest, 4 bytes a character: what who loads them needs.
MOST_BYTES_OF_IDS = 8 << 30


def write_npz(records: Records, output: Path) -> None:
    """Write `ids` (N,) and `embeddings`, (N, D) or all rows of all records.

    Where a record has several, `offsets` (N + 1,) says which are its own, and `windows` (N,) into
    how many maps its contacts are to be cut; `alphabet` is what the columns of logits are. Arrays
    go into the archive piece by piece.

    Raises:
        InputError: a very long id makes `ids` so wide that nobody could load them.
    """
    embeddings, values = records.embeddings, records.values
    width = max(map(len, records.names()), default=1) or 1
    if 4 * width * len(records) > MOST_BYTES_OF_IDS:
        raise InputError(
            f"{embeddings.path}: an id has {width} characters, and numpy makes all {len(records)} "
            "as wide, more than memory holds; use parquet"
        )
    with (
        replacing(output) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        ids = _id_blocks(records, np.dtype((str, width)))
        # What is as wide as the longest is mostly nothing.
        _write(archive, "ids", np.dtype((str, width)), (len(records),), ids, zipfile.ZIP_DEFLATED)
        if records.output.ragged:
            for name, array in (
                ("offsets", records.offsets()),
                ("windows", embeddings.file["windows"][:]),
            ):
                _write(archive, name, array.dtype, array.shape, [array])
        if records.output.name == LOGITS:
            alphabet = np.array(embeddings.alphabet)
            _write(archive, "alphabet", alphabet.dtype, alphabet.shape, [alphabet])
        blocks = (block.values for block in records.blocks())
        _write(archive, "embeddings", values.dtype, values.shape, blocks)


def _id_blocks(records: Records, dtype: np.dtype) -> Iterator[np.ndarray]:
    ids = records.names()
    at_once = max(1, BYTES_AT_ONCE // dtype.itemsize)
    while block := list(islice(ids, at_once)):
        yield np.array(block, dtype)


def _write(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    blocks: Iterable[np.ndarray],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write an array as `np.save` does, block by block."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = compression
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(member, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.tobytes())


NPZ = Format("npz", "numpy: `ids` and `embeddings`", write_npz, takes=any_output)
