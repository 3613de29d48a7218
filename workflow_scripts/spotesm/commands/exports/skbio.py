"""`skbio`: scikit-bio's format `embed`."""

from pathlib import Path

import h5py
import numpy as np

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, vectors
from spotesm.commands.exports.records import Records
from spotesm.commands.exports.sequences import blocks_with_sequences


def write_skbio(records: Records, output: Path) -> None:
    """Write what `skbio.read(output, format="embed", constructor=...)` gives one by one.

    ProteinVector of records, ProteinEmbedding of residues. In the file, as skbio/io/format/embed.py
    has it: all sequences, letter by letter (`id`), all rows (`embedding`), and where each record's
    end (`idptr`, `embedding_ptr`). It has no ids, and no float16, which becomes float32.
    """
    file = records.embeddings.file
    residues = int(file["lengths"][:].sum(dtype=np.int64))
    with replacing(output) as temporary, h5py.File(temporary, "w", locking=False) as target:
        letters = target.create_dataset("id", residues, np.uint8)
        embedding = target.create_dataset("embedding", records.values.shape, np.float32)
        target["idptr"] = np.cumsum(file["lengths"][:], dtype=np.int64)
        if not records.output.ragged:
            target["embedding_ptr"] = np.arange(1, len(records) + 1)
        letters_end = rows_end = 0
        for block, sequences in blocks_with_sequences(records):
            text = b"".join(sequence for _, sequence in sequences)
            letters[letters_end : letters_end + len(text)] = np.frombuffer(text, np.uint8)
            letters_end += len(text)
            embedding[rows_end : rows_end + len(block.values)] = block.values
            rows_end += len(block.values)
        target.attrs.update(
            {
                "format": "embedding",
                "format-version": "1.0",
                "dtype": "float32",
                "dim": records.values.shape[1],
            }
        )


SKBIO = Format(
    "skbio",
    "scikit-bio's `embed`, ProteinVector or of residues ProteinEmbedding; needs --fasta",
    write_skbio,
    takes=vectors,
    needs_fasta=True,
    has_ids=False,
)
