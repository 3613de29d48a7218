"""Contigs in, the proteins of their open reading frames out, each with its way back."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from Bio import BiopythonWarning
from Bio.Data.CodonTable import unambiguous_dna_by_id
from Bio.Data.IUPACData import ambiguous_dna_letters
from Bio.Seq import reverse_complement, translate

from spotesm.base.durable import replacing
from spotesm.base.failures import InputError
from spotesm.sequences.fasta import read_fasta

log = logging.getLogger(__name__)

STOP = ord("*")
_SEVERAL_TO_X = str.maketrans("BZJ", "XXX")  # what Biopython makes of two possible residues
_LETTERS = ambiguous_dna_letters.encode()  # the four bases and IUPAC's codes for several of them
_CODE_OF_BYTE = np.full(256, 255, np.uint8)
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
    contig: str, translator: Translator, min_orf: int
) -> Iterator[tuple[int, int, int, str]]:
    """Yield the open reading frames of a contig, in all six frames.

    An open reading frame is what lies between two stops, or a stop and an end of the contig.

    Returns:
        Of each: the frame, +1 to +3 and -1 to -3, in which +k begins at the k-th base and -k at
        the k-th from the end; where it starts and ends on the contig as given, from 1 on, both
        included and start < end, the stop codon excluded; and its at least `min_orf` residues.

    Raises:
        ValueError: a character is no base; says which and where.
    """
    forward = _encode(contig)
    backward = _encode(reverse_complement(contig))
    for sign, bases in ((1, forward), (-1, backward)):
        for offset in range(3):
            residues = translator.translate(bases[offset:])
            stops = np.flatnonzero(residues == STOP)
            firsts = np.concatenate([[0], stops + 1])
            ends = np.concatenate([stops, [len(residues)]])
            for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
                if end - first >= min_orf:
                    start, stop = offset + 3 * first + 1, offset + 3 * end
                    if sign < 0:
                        start, stop = len(bases) - stop + 1, len(bases) - start + 1
                    yield sign * (offset + 1), start, stop, residues[first:end].tobytes().decode()


def _encode(contig: str) -> np.ndarray:
    codes = _CODE_OF_BYTE[np.frombuffer(contig.encode("latin-1", "replace"), np.uint8)]
    wrong = np.flatnonzero(codes == 255)
    if len(wrong):
        raise ValueError(f"{contig[wrong[0]]!r} at base {wrong[0] + 1} is no nucleotide")
    return codes


def translate_contigs(
    inputs: Sequence[Path], output: Path, genetic_code: int, min_orf: int
) -> None:
    """Write a protein FASTA of all open reading frames, with ids `ID|frame±k|start-end`.

    Raises:
        InputError: an input cannot be read, holds something else than nucleotides, or nothing in
            them is long enough.
    """
    translator = Translator(genetic_code)
    n_contigs = n_orfs = 0
    with replacing(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for path in inputs:
            for identifier, contig in read_fasta(path):
                n_contigs += 1
                n_orfs += _write_orfs(path, identifier, contig, translator, min_orf, file)
        if not n_orfs:
            raise InputError(
                f"{inputs[0]}: no open reading frame has {min_orf} residues; lower min_orf"
            )
    log.info("%d contigs, %d open reading frames", n_contigs, n_orfs)


def _write_orfs(
    path: Path,
    identifier: str,
    contig: str,
    translator: Translator,
    min_orf: int,
    file: io.TextIOBase,
) -> int:
    count = 0
    try:
        for frame, start, end, residues in find_orfs(contig, translator, min_orf):
            file.write(f">{identifier}|frame{frame:+d}|{start}-{end}\n{residues}\n")
            count += 1
    except ValueError as error:
        raise InputError(
            f"{path}, record {identifier!r}: {error}; is this dataset's alphabet nucleotide?"
        ) from error
    return count


def parse_orf_id(identifier: str) -> tuple[str, int, int, int]:
    """Return the contig, frame, start and end that an id of `translate_contigs` names."""
    contig, frame, start, end = _ID.fullmatch(identifier).groups()
    return contig, int(frame), int(start), int(end)
