"""Contigs in, the proteins of their open reading frames out, each with its way back."""

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from Bio import BiopythonWarning
from Bio.Data.CodonTable import unambiguous_dna_by_id
from Bio.Data.IUPACData import ambiguous_dna_complement, ambiguous_dna_letters
from Bio.Seq import translate

from spotesm.base.durable import replacing, write_json
from spotesm.base.failures import InputError
from spotesm.sequences.fasta import RejectedSequence, character_at, read_fasta
from spotesm.sequences.reasons import EMPTY, INVALID_CHARACTER
from spotesm.sequences.rejected import TRANSLATE, writing_rejected

log = logging.getLogger(__name__)

STOP, UNKNOWN = ord("*"), ord("X")
# So many unknown codons in a row are a gap: 10 N, the least that GenBank takes for one, are 3.
LEAST_GAP = 3
BLANKS = b" "
COUNTS = ("n_contigs", "n_rejected_contigs", "n_removed_from_contigs", "n_unknown_codons")
_SEVERAL_TO_X = str.maketrans("BZJ", "XXX")  # what Biopython makes of two possible residues
_LETTERS = ambiguous_dna_letters.encode()  # the four bases and IUPAC's codes for several of them
_COMPLEMENT = np.array(
    [_LETTERS.index(ambiguous_dna_complement[chr(i)].encode()) for i in _LETTERS]
)
_NO_BASE = 255
_CODE_OF_BYTE = np.full(256, _NO_BASE, np.uint8)
for _code, _letter in enumerate(_LETTERS):
    _CODE_OF_BYTE[[_letter, ord(chr(_letter).lower())]] = _code
_CODE_OF_BYTE[list(b"Uu")] = _LETTERS.index(b"T")
_ID = re.compile(r"(.*)\|frame([+-][123])\|(\d+)-(\d+)", re.DOTALL)


class Translator:
    """Turns codons into residues by one of NCBI's genetic codes, as Biopython has them.

    A codon of ambiguous bases gives a residue if all its meanings agree, and X otherwise.
    """

    def __init__(self, genetic_code: int) -> None:
        if genetic_code not in unambiguous_dna_by_id:
            known = ", ".join(map(str, sorted(unambiguous_dna_by_id)))
            raise InputError(f"genetic_code: {genetic_code}: Biopython knows {known}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonWarning)  # stops that are residues elsewhere
            residues = [
                translate("".join(codon), genetic_code)
                for codon in product(_LETTERS.decode(), repeat=3)
            ]
        table = "".join(residues).translate(_SEVERAL_TO_X)
        self._residue_of_codon = np.frombuffer(table.encode(), np.uint8)

    def translate(self, bases: np.ndarray) -> np.ndarray:
        """Translate base codes (n,), from the first on; the residues, (n // 3,) bytes."""
        codons = bases[: len(bases) // 3 * 3].reshape(-1, 3).astype(np.int64)
        return self._residue_of_codon[codons @ [len(_LETTERS) ** 2, len(_LETTERS), 1]]


def find_orfs(
    contig: bytes, translator: Translator, min_orf: int, counts: Counter[str]
) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the open reading frames of a contig, in all six frames.

    An open reading frame is what lies between two of these: a stop, a gap (`LEAST_GAP` or more
    unknown codons), an end of the contig.

    Args:
        counts: to its `n_unknown_codons` the codons of the gaps are added, over all frames.

    Returns:
        Of each: the frame, +1 to +3 and -1 to -3, in which +k begins at the k-th base and -k at
        the k-th from the end; where it starts and ends on the contig as given, from 1 on, both
        included and start < end, the stop codon excluded; and its at least `min_orf` residues.

    Raises:
        RejectedSequence: there are no bases, or a character is none.
    """
    forward = _encode(contig)
    backward = _COMPLEMENT[forward][::-1]
    for sign, bases in ((1, forward), (-1, backward)):
        for offset in range(3):
            residues = translator.translate(bases[offset:])
            gaps = find_gaps(residues)
            counts["n_unknown_codons"] += int(np.count_nonzero(gaps))
            breaks = np.flatnonzero(gaps | (residues == STOP))
            firsts = np.concatenate([[0], breaks + 1])
            ends = np.concatenate([breaks, [len(residues)]])
            long = ends - firsts >= min_orf
            for first, end in zip(firsts[long].tolist(), ends[long].tolist(), strict=True):
                start, stop = offset + 3 * first + 1, offset + 3 * end
                if sign < 0:
                    start, stop = len(bases) - stop + 1, len(bases) - start + 1
                yield sign * (offset + 1), start, stop, residues[first:end].tobytes()


def find_gaps(residues: np.ndarray) -> np.ndarray:
    """Return which residues (n,) are in a run of `LEAST_GAP` or more unknown ones, (n,) bool."""
    edges = np.flatnonzero(np.diff(residues == UNKNOWN, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= LEAST_GAP
    changes = np.zeros(len(residues) + 1, np.int8)
    changes[starts[long]] = 1
    changes[ends[long]] = -1
    return np.cumsum(changes[:-1]).astype(bool)


def _encode(contig: bytes) -> np.ndarray:
    if not contig:
        raise RejectedSequence(EMPTY, "no bases")
    codes = _CODE_OF_BYTE[np.frombuffer(contig, np.uint8)]
    wrong = np.flatnonzero(codes == _NO_BASE)
    if len(wrong):
        character = character_at(contig, int(wrong[0]))
        raise RejectedSequence(
            INVALID_CHARACTER, f"{character!r} at base {wrong[0] + 1} is no nucleotide"
        )
    return codes


def translate_contigs(
    inputs: Sequence[Path],
    output: Path,
    rejected: Path,
    summary: Path,
    genetic_code: int,
    min_orf: int,
    max_rejected: float,
    kept: Path,
    origin: Mapping | None = None,
) -> None:
    """Write a protein FASTA of all open reading frames, with ids `ID|frame±k|start-end`.

    Args:
        rejected: the contigs that hold something else than nucleotides, TSV; their ordinals are
            their places among the contigs, from 0.
        summary: JSON with `COUNTS`.
        max_rejected: fraction of the contigs that may be rejected.
        kept: where the lines of `rejected` go instead if those are too many.
        origin: what the input is known by, kept in `summary` as `input`.

    Raises:
        InputError: an input cannot be read, or nothing in them is long enough.
        TooManyRejectedError: more than `max_rejected` were. After either nothing is written, but
            for `kept`.
    """
    translator = Translator(genetic_code)
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    n_orfs = 0
    with (
        writing_rejected(rejected) as rejects,
        replacing(output) as temporary,
        open(temporary, "wb") as file,
    ):
        for ordinal, record in enumerate(read_fasta(inputs)):
            counts["n_contigs"] += 1
            raw = record.raw
            contig = raw.translate(None, delete=BLANKS)
            counts["n_removed_from_contigs"] += len(raw) - len(contig)
            try:
                for frame, start, end, residues in find_orfs(contig, translator, min_orf, counts):
                    orf_id = f"{record.identifier}|frame{frame:+d}|{start}-{end}".encode()
                    file.write(b">%s\n%s\n" % (orf_id, residues))
                    n_orfs += 1
            except RejectedSequence as error:
                counts["n_rejected_contigs"] += 1
                rejects.add(ordinal, record.identifier, TRANSLATE, error.reason)
        rejects.check(
            counts["n_contigs"],
            max_rejected,
            kept,
            "Is this dataset's alphabet nucleotide? Mend the input, or raise max_rejected and run "
            "again",
            what="contigs",
        )
        if not n_orfs:
            raise InputError(
                f"{inputs[0]}: no open reading frame has {min_orf} residues; lower min_orf"
            )
    write_json(summary, {**counts, "input": dict(origin or {})})
    log.info("%d contigs, %d open reading frames", counts["n_contigs"], n_orfs)
    if counts["n_unknown_codons"]:
        log.warning(
            "%d unknown codons, in runs of %d or more, were left out: reading frames end there",
            counts["n_unknown_codons"],
            LEAST_GAP,
        )
    if counts["n_rejected_contigs"]:
        log.warning("%d contigs were rejected; see rejected.tsv", counts["n_rejected_contigs"])


def parse_orf_id(identifier: str) -> tuple[str, int, int, int]:
    """Return the contig, frame, start and end that an id of `translate_contigs` names."""
    contig, frame, start, end = _ID.fullmatch(identifier).groups()
    return contig, int(frame), int(start), int(end)
