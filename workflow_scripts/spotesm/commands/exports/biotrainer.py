"""`biotrainer`: a file of embeddings that biotrainer takes as computed before."""

import hashlib
from pathlib import Path

import h5py

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, vectors
from spotesm.commands.exports.per_protein import describe
from spotesm.commands.exports.records import Records
from spotesm.commands.exports.sequences import blocks_with_sequences


def write_biotrainer(records: Records, output: Path) -> None:
    """Write one dataset a different sequence, (D,) or (l, D), named by the sequence's hash.

    The id of the first record that has it is the attribute `original_id`
    (biotrainer/embedders/services/embedding_service.py).
    """
    with replacing(output) as temporary, h5py.File(temporary, "w", locking=False) as file:
        for block, sequences in blocks_with_sequences(records):
            for (identifier, values), (raw, _) in zip(
                records.arrays(block), sequences, strict=True
            ):
                name = hash_sequence(raw)
                if name not in file:
                    file[name] = values
                    file[name].attrs["original_id"] = identifier
        file.attrs.update(describe(records))


def hash_sequence(raw: bytes) -> str:
    """Return biotrainer's name for a sequence, as the FASTA has it (its utilities/hashing.py)."""
    return hashlib.sha256(b"%s_%d" % (raw, len(raw))).hexdigest()


BIOTRAINER = Format(
    "biotrainer",
    "what biotrainer takes as computed before, of proteins or residues; needs --fasta",
    write_biotrainer,
    takes=vectors,
    needs_fasta=True,
    has_ids=False,
)
