"""Split FASTA inputs into shards by the content of their sequences, and read a shard back."""

import csv
import logging
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spotesm.base.durable import replacing, write_json
from spotesm.sequences.digests import digest_sequence, from_bytes, hash_text
from spotesm.sequences.fasta import RejectedSequence, normalise_sequence, read_fasta

log = logging.getLogger(__name__)

REJECTED_COLUMNS = ("ordinal", "id", "stage", "reason", "detail")
_ID_HASHES_AT_ONCE = 1 << 20


def split_fasta(
    inputs: Sequence[Path], shards: Sequence[Path], rejected: Path, summary: Path
) -> None:
    """Write every record of `inputs` to one of `shards`, or as a line to `rejected`.

    A record's shard is the digest of its normalised sequence modulo the number of shards, so
    equal sequences meet and added records move no others. Shard records read
    `>ORDINAL ID`, the ordinal being the record's place over all inputs, from 0. One pass;
    memory does not grow with the input.

    Args:
        rejected: TSV with the columns `REJECTED_COLUMNS`.
        summary: JSON with the counts `n_records`, `n_rejected`, `n_residues`,
            `n_replaced_residues` and `n_repeated_ids`.

    Raises:
        InputError: an input cannot be read; nothing is written.
    """
    counts = dict.fromkeys(("n_rejected", "n_residues", "n_replaced_residues"), 0)
    ordinal = -1
    with ExitStack() as stack:
        files = [stack.enter_context(_open_replacing(stack, path)) for path in shards]
        rejects = csv.writer(
            stack.enter_context(
                open(stack.enter_context(replacing(rejected)), "w", newline="", encoding="utf-8")
            ),
            delimiter="\t",
            lineterminator="\n",
        )
        rejects.writerow(REJECTED_COLUMNS)
        id_hashes = stack.enter_context(tempfile.TemporaryFile(dir=rejected.parent))
        for ordinal, (identifier, raw) in enumerate(_read_all(inputs)):
            id_hashes.write(hash_text(identifier))
            try:
                sequence, replaced = normalise_sequence(raw)
            except RejectedSequence as error:
                counts["n_rejected"] += 1
                why = error.reason
                rejects.writerow((ordinal, identifier, "split", why.keyword, why.detail))
                continue
            counts["n_residues"] += len(sequence)
            counts["n_replaced_residues"] += replaced
            shard = int.from_bytes(digest_sequence(sequence)) % len(shards)
            files[shard].write(b">%d %s\n%s\n" % (ordinal, identifier.encode(), sequence))
        counts = {
            "n_records": ordinal + 1,
            **counts,
            "n_repeated_ids": _count_repeats(id_hashes),
        }
    _log_counts(counts)
    write_json(summary, counts)


def _open_replacing(stack: ExitStack, path: Path) -> BinaryIO:
    return open(stack.enter_context(replacing(path)), "wb")


def _read_all(inputs: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in inputs:
        log.info("reading %s", path)
        yield from read_fasta(path)


def _count_repeats(hashes: BinaryIO) -> int:
    """Count the values that repeat an earlier one, in a file of 8-byte hashes.

    Sorted in the file, so that hundreds of millions of ids need disk, not memory. The chance
    that two of 300 million different ids share a hash is 1 in 400.
    """
    hashes.flush()
    if not hashes.tell():
        return 0
    values = np.memmap(hashes, dtype=np.uint64, mode="r+")
    values.sort()
    return sum(
        int(np.count_nonzero(np.diff(values[start : start + _ID_HASHES_AT_ONCE + 1]) == 0))
        for start in range(0, len(values), _ID_HASHES_AT_ONCE)
    )


def _log_counts(counts: dict[str, int]) -> None:
    log.info("%(n_records)d records, %(n_residues)d residues", counts)
    if counts["n_replaced_residues"]:
        log.warning("%(n_replaced_residues)d residues outside ESM-2's alphabet became X", counts)
    if counts["n_repeated_ids"]:
        log.warning("%(n_repeated_ids)d records repeat an earlier id; each keeps its row", counts)
    if counts["n_rejected"]:
        log.warning("%(n_rejected)d records were rejected; see rejected.tsv for each", counts)


@dataclass(frozen=True)
class Shard:
    """The index of a shard FASTA; sequences stay in the file.

    Of n records holding u different sequences:

    Attributes:
        path: the shard FASTA.
        ordinals: (n,) int64, ascending; each record's place in the inputs.
        sequence_of_record: (n,) int64, which of the u sequences a record has.
        digests: (u,) DIGEST, ascending; blake2b-128 of each sequence.
        lengths: (u,) int32, residues.
        offsets: (u,) int64, where each sequence starts in the file, in bytes.
    """

    path: Path
    ordinals: np.ndarray
    sequence_of_record: np.ndarray
    digests: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    @classmethod
    def index(cls, path: Path) -> "Shard":
        """Read a shard FASTA that `split_fasta` wrote, once, keeping 36 bytes a record."""
        ordinals, offsets, lengths, digests = array("q"), array("q"), array("i"), bytearray()
        with open(path, "rb") as file:
            for header in file:
                sequence_start = file.tell()
                sequence = file.readline().rstrip(b"\n")
                ordinals.append(int(header[1:].split(b" ", 1)[0]))
                offsets.append(sequence_start)
                lengths.append(len(sequence))
                digests += digest_sequence(sequence)
        unique, first, sequence_of_record = np.unique(
            from_bytes(digests),
            return_index=True,
            return_inverse=True,
        )
        return cls(
            path=path,
            ordinals=np.array(ordinals, dtype=np.int64),
            sequence_of_record=sequence_of_record,
            digests=unique,
            lengths=np.array(lengths, dtype=np.int32)[first],
            offsets=np.array(offsets, dtype=np.int64)[first],
        )

    def read_sequences(self, which: np.ndarray) -> list[bytes]:
        """Read the sequences with the indices `which` (into `digests`), in that order."""
        with open(self.path, "rb") as file:
            sequences = []
            for index in which:
                file.seek(self.offsets[index])
                sequences.append(file.read(self.lengths[index]))
        return sequences

    def read_ids(self) -> Iterator[str]:
        """Yield the id of every record, in order."""
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                if line.startswith(">"):
                    yield line.rstrip("\n").split(" ", 1)[1]

    def ids_of(self, which: np.ndarray) -> list[str]:
        """Return the id of the first record that has each of the sequences `which`."""
        first = {}
        for identifier, sequence in zip(self.read_ids(), self.sequence_of_record, strict=True):
            first.setdefault(int(sequence), identifier)
        return [first[int(index)] for index in which]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return the index of each of `digests` (k,) DIGEST in `self.digests`; -1 where absent."""
        if not len(self.digests):
            return np.full(len(digests), -1)
        index = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        return np.where(self.digests[index] == digests, index, -1)
