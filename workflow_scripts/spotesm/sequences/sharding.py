"""Split FASTA inputs into shards by the content of their sequences, and read a shard back."""

import logging
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from sys import getsizeof

import numpy as np

from spotesm.base.durable import read_json, replacing_all, write_json
from spotesm.base.failures import InputError, writing
from spotesm.base.limits import allow_open_files
from spotesm.sequences.digests import (
    KEY_BYTES,
    digest_sequence,
    digests_of,
    from_bytes,
    keys_of,
)
from spotesm.sequences.fasta import Batch, RejectedSequence, normalise, normalise_all, read_batches
from spotesm.sequences.ids import Ids
from spotesm.sequences.looks import (
    find_doubtful,
    is_like_nucleotides,
    is_nucleic_acid,
    is_unknown,
)
from spotesm.sequences.rejected import SPLIT, RejectedWriter, read_rejected, writing_rejected

log = logging.getLogger(__name__)

COUNTS = (
    "n_records",
    "n_rejected",
    "n_residues",
    "n_replaced_residues",
    "n_removed_characters",
    "n_unknown_proteins",
    "n_like_nucleotides",
)
MOST_LIKE_NUCLEOTIDES = 0.5
BYTES_AT_ONCE = 1 << 24  # of what goes to all shards


@dataclass(frozen=True)
class Contigs:
    """What `translate_contigs` left beside the proteins.

    Attributes:
        counts: JSON.
        rejected: the contigs that it rejected, TSV.
    """

    counts: Path
    rejected: Path


def split_fasta(
    inputs: Sequence[Path],
    shards: Sequence[Path],
    rejected: Path,
    summary: Path,
    max_rejected: float = 1.0,
    kept: Path | None = None,
    surely_proteins: bool = True,
    contigs: Contigs | None = None,
    origin: Mapping | None = None,
) -> None:
    """Write every record of `inputs` to one of `shards`, or as a line to `rejected`.

    A record's shard is the range that the digest of its normalised sequence is in, so equal
    sequences meet, added records move no others, and another number of shards finds what it
    needs in few of the old ones. Shard records read `>ORDINAL ID`, the ordinal being the record's
    place over all inputs, from 0. One pass; memory does not grow with the input.

    Args:
        rejected: TSV, see `Rejected`; begins with the lines of `contigs`.
        summary: JSON with `COUNTS`, `n_repeated_ids` and the counts of `contigs`.
        max_rejected: fraction of the records that may be.
        kept: where the lines of `rejected` go instead if those are too many.
        surely_proteins: whether sequences that look like nucleotides are taken for proteins.
        contigs: what the records come from, if they are open reading frames.
        origin: what the input is known by, kept in `summary` as `input`.

    Raises:
        InputError: an input cannot be read, or looks like nucleotides.
        TooManyRejectedError: more than `max_rejected` were. After either nothing is written, but
            for `kept`.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    nucleotides: Counter[str] = Counter()
    with ExitStack() as stack:
        allow_open_files(len(shards))
        files = _ShardFiles(stack, shards)
        edges = divide_digests(len(shards))
        rejects = stack.enter_context(writing_rejected(rejected))
        for line in read_rejected(contigs.rejected) if contigs else ():
            rejects.pass_on(line)
        ids = Ids(stack.enter_context(tempfile.TemporaryFile(dir=rejected.parent)))
        for batch in read_batches(inputs):
            ordinals: Iterable[int] = range(len(ids), len(ids) + len(batch.names))
            names, descriptions, sequences = batch.names, batch.descriptions, normalise_all(batch)
            ids.add(names)
            if sequences is None:
                ordinals, names, descriptions, sequences = _normalise_each(
                    ordinals, batch, counts, rejects
                )
            _count_kinds(sequences, descriptions, counts, nucleotides)
            files.add(shards_of(digests_of(sequences), edges), ordinals, names, sequences)
        files.write()
        counts["n_records"] = len(ids)
        counts["n_repeated_ids"] = ids.count_repeats()
        _log_counts(counts)
        if not surely_proteins:
            _refuse_nucleotides(inputs, counts, nucleotides)
        rejects.check(
            counts["n_records"],
            max_rejected,
            kept or rejected,
            "Mend the input, or raise max_rejected and run again",
        )
    of_contigs = read_json(contigs.counts) if contigs else {}
    write_json(summary, {**counts, **of_contigs, "input": dict(origin or {})})


def divide_digests(shards: int) -> np.ndarray:
    """Return where the second and each later of so many equal ranges begins, uint64 keys."""
    keys = 1 << 8 * KEY_BYTES
    edges = [-(-number * keys // shards) for number in range(1, shards)]
    return np.array(edges, dtype=np.uint64)


def shards_of(digests: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return which range each of `digests` (k,) DIGEST is in, (k,) from 0 on."""
    return np.searchsorted(edges, keys_of(digests), "right")


class _ShardFiles:
    """The files of all shards, written side by side.

    Records are kept until they are many: a file's own buffer takes longer for each of them.

    Args:
        stack: closes the files, and gives them their names.
    """

    def __init__(self, stack: ExitStack, paths: Sequence[Path]) -> None:
        self._paths = paths
        temporaries = stack.enter_context(replacing_all(paths))
        self._files = [
            stack.enter_context(open(temporary, "wb"))  # noqa: SIM115
            for temporary in temporaries
        ]
        self._pending: list[list[bytes]] = [[] for _ in paths]
        self._pending_bytes = 0

    def add(
        self,
        shard_of: np.ndarray,
        ordinals: Iterable[int],
        names: Sequence[bytes],
        sequences: Sequence[bytes],
    ) -> None:
        """Take the next records, by columns."""
        records = zip(ordinals, names, sequences, strict=True)
        texts = [b">%d %s\n%s\n" % record for record in records]
        for shard, text in zip(shard_of.tolist(), texts, strict=True):
            self._pending[shard].append(text)
        self._pending_bytes += sum(map(getsizeof, texts))
        if self._pending_bytes >= BYTES_AT_ONCE:
            self.write()

    def write(self) -> None:
        """Write what is kept."""
        for path, file, records in zip(self._paths, self._files, self._pending, strict=True):
            with writing(path):
                file.write(b"".join(records))
                file.flush()
            records.clear()
        self._pending_bytes = 0


def _normalise_each(
    ordinals: Iterable[int], batch: Batch, counts: Counter[str], rejects: RejectedWriter
) -> tuple[list[int], list[bytes], list[bytes], list[bytes]]:
    """Return ordinals, names, descriptions, sequences of the records that can be embedded."""
    kept: list[int] = []
    names: list[bytes] = []
    descriptions: list[bytes] = []
    sequences: list[bytes] = []
    for number, (ordinal, record) in enumerate(zip(ordinals, batch.records(), strict=True)):
        try:
            sequence, replaced, removed = normalise(record)
        except RejectedSequence as error:
            reason = error.reason
            if error.line is not None:
                place = batch.place_of(number, error.line)
                reason = replace(reason, detail=f"{reason.detail} ({place})")
            counts["n_rejected"] += 1
            rejects.add(ordinal, record.identifier, SPLIT, reason)
            continue
        counts["n_replaced_residues"] += replaced
        counts["n_removed_characters"] += removed
        kept.append(ordinal)
        names.append(record.name)
        descriptions.append(record.description)
        sequences.append(sequence)
    return kept, names, descriptions, sequences


def _count_kinds(
    sequences: Sequence[bytes],
    descriptions: Sequence[bytes],
    counts: Counter[str],
    nucleotides: Counter[str],
) -> None:
    """Count residues and odd proteins.

    Args:
        nucleotides: to it are added the `records` and `residues` of long ones alone.
    """
    counts["n_residues"] += sum(map(len, sequences))
    for i in find_doubtful(sequences):
        sequence = sequences[i]
        counts["n_unknown_proteins"] += is_unknown(sequence)
        counts["n_like_nucleotides"] += is_nucleic_acid(sequence, descriptions[i])
        if is_like_nucleotides(sequence):
            nucleotides.update(records=1, residues=len(sequence))


def _refuse_nucleotides(
    inputs: Sequence[Path], counts: Counter[str], nucleotides: Counter[str]
) -> None:
    """Refuse an input that looks like nucleotides, by its records or by its residues.

    Real proteins of A, C, G, T and N alone exist, such as repeats of GA; they are few, and short
    beside the others.
    """
    accepted = counts["n_records"] - counts["n_rejected"]
    if (
        nucleotides["records"] > MOST_LIKE_NUCLEOTIDES * accepted
        or nucleotides["residues"] > MOST_LIKE_NUCLEOTIDES * counts["n_residues"]
    ):
        others = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        raise InputError(
            f"{inputs[0]}{others}: {nucleotides['records']} of {accepted} sequences are made "
            "of the letters of DNA or RNA alone; is this nucleotide? Then embed it with "
            "--nucleotide, or by a config as {fasta: ..., alphabet: nucleotide}; if they are "
            "proteins, say alphabet: protein there"
        )


# What is worth a warning, where it is not 0.
WARNINGS = {
    "n_replaced_residues": "%d residues outside the models' alphabet became X",
    "n_removed_characters": "%d gaps and blanks inside sequences were removed",
    "n_unknown_proteins": "%d proteins are of X alone; their embeddings mean nothing",
    "n_like_nucleotides": "%d sequences are made of the letters of nucleotides alone",
    "n_repeated_ids": "%d records repeat an earlier id; each keeps its row",
    "n_rejected": "%d records were rejected; see rejected.tsv for each",
}


def _log_counts(counts: Counter[str]) -> None:
    log.info("%(n_records)d records, %(n_residues)d residues", counts)
    for name, warning in WARNINGS.items():
        if counts[name]:
            log.warning(warning, counts[name])


@dataclass(frozen=True)
class Shard:
    """The index of a shard FASTA of n records and u different sequences, both in input order.

    Attributes:
        path: the file.
        ordinals: (n,) int64, ascending; each record's place in the inputs.
        sequence_of_record: (n,) int64, which of the u sequences a record has.
        digests: (u,) DIGEST, blake2b-128 of each sequence.
        by_digest: (u,) int64, the sequences in the order of their digests.
        lengths: (u,) int32, residues.
        offsets: (u,) int64, where each sequence starts in the file, in bytes.
        widest_id: most bytes of an id.
    """

    path: Path
    ordinals: np.ndarray
    sequence_of_record: np.ndarray
    digests: np.ndarray
    by_digest: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray
    widest_id: int

    @classmethod
    def index(cls, path: Path) -> "Shard":
        """Read a shard FASTA that `split_fasta` wrote, once, keeping 44 bytes a record."""
        ordinals, offsets, lengths, digests = array("q"), array("q"), array("i"), bytearray()
        widest_id = 0
        with open(path, "rb") as file:
            for header in file:
                sequence_start = file.tell()
                sequence = file.readline().rstrip(b"\n")
                ordinal, identifier = header[1:].rstrip(b"\n").split(b" ", 1)
                ordinals.append(int(ordinal))
                widest_id = max(widest_id, len(identifier))
                offsets.append(sequence_start)
                lengths.append(len(sequence))
                digests += digest_sequence(sequence)
        ascending, first, inverse = np.unique(
            from_bytes(digests), return_index=True, return_inverse=True
        )
        by_appearance = np.argsort(first)
        by_digest = np.argsort(by_appearance)
        return cls(
            path=path,
            ordinals=np.array(ordinals, dtype=np.int64),
            sequence_of_record=by_digest[inverse],
            digests=ascending[by_appearance],
            by_digest=by_digest,
            lengths=np.array(lengths, dtype=np.int32)[first[by_appearance]],
            offsets=np.array(offsets, dtype=np.int64)[first[by_appearance]],
            widest_id=widest_id,
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
        first: dict[int, str] = {}
        for identifier, index in zip(self.read_ids(), self.sequence_of_record, strict=True):
            first.setdefault(int(index), identifier)
        return [first[int(index)] for index in which]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return the index of each of `digests` (k,) DIGEST in `self.digests`; -1 where absent."""
        if not len(self.digests):
            return np.full(len(digests), -1)
        place = np.searchsorted(self.digests, digests, sorter=self.by_digest)
        index = self.by_digest[place.clip(max=len(self.digests) - 1)]
        return np.where(self.digests[index] == digests, index, -1)
