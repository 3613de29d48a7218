"""`h5ad`: AnnData, for scanpy and the tools around it."""

import warnings
from pathlib import Path

import h5py

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, rows
from spotesm.commands.exports.records import Records
from spotesm.merged.frames import annotations, name_in_obsm
from spotesm.request.outputs import output_of

# How AnnData marks a plain array; its docs, "On-disk format".
ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}


def write_h5ad(records: Records, output: Path) -> None:
    """Write the output as X, others with one row a record in obsm, the attributes in uns.

    AnnData itself writes all but the large arrays, which it would hold in memory.
    """
    embeddings, key = records.embeddings, records.keys[0]
    with replacing(output) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ids may repeat; who reads the file is told again
            data = annotations(embeddings.file, key)
            data.obs.index = data.obs.index.map(records.name)
            data.write_h5ad(temporary)
        with h5py.File(temporary, "r+", locking=False) as file:
            for other in embeddings.outputs:
                if other != key and rows(output_of(other)):
                    _copy(Records(embeddings, [other]), file["obsm"], name_in_obsm(other))
            file.pop("X", None)
            _copy(records, file, "X")


def _copy(records: Records, group: h5py.Group, name: str) -> None:
    array = group.create_dataset(name, records.values.shape, records.values.dtype)
    array.attrs.update(ARRAY)
    end = 0
    for block in records.blocks():
        array[end : end + len(block.values)] = block.values
        end += len(block.values)


H5AD = Format(
    "h5ad",
    "AnnData, for scanpy: X, other outputs in obsm, lengths in obs, attributes in uns",
    write_h5ad,
    takes=rows,
)
