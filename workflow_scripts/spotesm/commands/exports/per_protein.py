"""`h5`: one dataset a protein, as UniProt offers embeddings, and as protspace reads them."""

from pathlib import Path

import h5py

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, any_output, safe_name
from spotesm.commands.exports.records import Records
from spotesm.hdf5.format import EXPORT_FORMAT
from spotesm.request.outputs import LOGITS


def write_h5(records: Records, output: Path) -> None:
    """Write one dataset a protein, named by id or accession, if odd in percent-encoded form.

    The id itself is the attribute `original_id`.
    """
    with replacing(output) as temporary, h5py.File(temporary, "w", locking=False) as file:
        for block in records.blocks():
            for identifier, values in records.arrays(block):
                dataset = file.create_dataset(safe_name(records.name(identifier)), data=values)
                dataset.attrs["original_id"] = identifier
        file.attrs.update(describe(records))


def describe(records: Records) -> dict:
    """Return the attributes of an HDF5 file that we export.

    `model_name` is what protspace asks for (protspace/data/loaders/h5.py).
    """
    attributes = records.embeddings.attributes
    del attributes["format_version"]
    if records.output.name == LOGITS:
        attributes["alphabet"] = records.embeddings.alphabet
    return {
        **attributes,
        "format": EXPORT_FORMAT,
        "key": records.keys[0],
        "model_name": attributes["model"],
    }


H5 = Format(
    "h5",
    "one dataset a protein, named by its id: as UniProt's, for protspace",
    write_h5,
    takes=any_output,
    place=safe_name,
)
