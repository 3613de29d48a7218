"""`npz`: arrays of numpy."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, any_output
from spotesm.commands.exports.records import Records


def write_npz(records: Records, output: Path) -> None:
    """Write `ids` (N,) and `embeddings`, (N, D) or all rows of all records.

    Where a record has several, `offsets` (N + 1,) says which are its own, and `windows` (N,) into
    how many maps its contacts are to be cut. Large arrays go by way of a temporary file.
    """
    arrays = {"ids": np.array(records.embeddings.ids, dtype=str)}
    if records.output.ragged:
        arrays["offsets"] = records.offsets()
        arrays["windows"] = records.embeddings.file["windows"][:]
    with (
        replacing(output) as temporary,
        tempfile.TemporaryDirectory(dir=output.parent) as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name, array in arrays.items():
            np.save(f"{folder}/{name}.npy", array)
        _write_values(records, f"{folder}/embeddings.npy")
        for name in (*arrays, "embeddings"):
            archive.write(f"{folder}/{name}.npy", f"{name}.npy")


def _write_values(records: Records, path: str) -> None:
    values = records.values
    if not values.size:  # nothing can be mapped
        np.save(path, values[:])
        return
    array = np.lib.format.open_memmap(path, "w+", values.dtype, values.shape)
    end = 0
    for block in records.blocks():
        array[end : end + len(block.values)] = block.values
        end += len(block.values)
    array.flush()


NPZ = Format("npz", "numpy: `ids` and `embeddings`", write_npz, takes=any_output)
