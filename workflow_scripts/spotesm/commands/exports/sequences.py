"""The sequences of the rows, which only the FASTA has."""

from collections.abc import Iterator

import numpy as np

from spotesm.base.failures import InputError
from spotesm.commands.exports.records import Block, Records
from spotesm.sequences.digests import digest_sequence
from spotesm.sequences.fasta import Record, RejectedSequence, normalise, read_fasta


def blocks_with_sequences(records: Records) -> Iterator[tuple[Block, list[tuple[bytes, bytes]]]]:
    """Yield blocks, and of each record the sequence as the FASTA has it and as the model saw it.

    Records of the FASTA that were rejected have no row and are passed over.

    Raises:
        InputError: a row has no such record, or not in this order; or it has not a row of values
            for each residue, where it should.
    """
    if records.output.ragged:
        _check_every_residue(records)
    fasta = read_fasta(records.fasta)
    for block in records.blocks():
        rows = zip(block.ids, block.digests, strict=True)
        yield block, [_find(fasta, i, digest.tobytes(), records) for i, digest in rows]


def _find(
    fasta: Iterator[Record], wanted: str, digest: bytes, records: Records
) -> tuple[bytes, bytes]:
    """Return the next sequence of this id and digest."""
    for record in fasta:
        if record.identifier != wanted:
            continue
        try:
            sequence = normalise(record).sequence
        except RejectedSequence:
            continue
        if digest_sequence(sequence) == digest:
            return record.raw, sequence
    raise InputError(
        f"{', '.join(map(str, records.fasta))}: has no record {wanted!r} with the sequence that "
        f"{records.embeddings.path} has, or not in its order; name the FASTA that it was made "
        "from (of contigs, orfs.fasta)"
    )


def _check_every_residue(records: Records) -> None:
    file = records.embeddings.file
    cut = np.flatnonzero(np.diff(records.offsets()) != file["lengths"][:])
    if len(cut):
        identifier = file["sequence_ids"].asstr()[cut[0]]
        raise InputError(
            f"{records.embeddings.path}: {identifier!r} and {len(cut) - 1} others were truncated, "
            "so that not every residue has its vector; npz, parquet and h5 take them"
        )
