"""Six-frame translation against an independent brute force, and against Biopython."""

import gzip
import random
from pathlib import Path

import pytest
from Bio.Seq import Seq
from spotesm.base.failures import InputError
from spotesm.sequences.fasta import read_fasta
from spotesm.sequences.translation import Translator, find_orfs, parse_orf_id, translate_contigs

# NCBI's genetic code 1, in its own order: T, C, A, G.
STANDARD = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
MEANINGS = {
    **{base: base for base in "TCAG"},
    **{"U": "T", "R": "AG", "Y": "CT", "S": "GC", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}


def residue(codon: str) -> str:
    """One codon, by trying all its meanings."""
    residues = {
        STANDARD[16 * "TCAG".index(a) + 4 * "TCAG".index(b) + "TCAG".index(c)]
        for a in MEANINGS[codon[0]]
        for b in MEANINGS[codon[1]]
        for c in MEANINGS[codon[2]]
    }
    return residues.pop() if len(residues) == 1 else "X"


def complement(base: str) -> str:
    pairs = {"A": "T", "T": "A", "C": "G", "G": "C"}
    wanted = {pairs[meaning] for meaning in MEANINGS[base]}
    return next(code for code, meaning in MEANINGS.items() if set(meaning) == wanted)


def brute_force(contig: str, min_orf: int) -> set[tuple[int, int, int, str]]:
    """Walk along every frame, codon by codon."""
    contig = contig.upper()
    n = len(contig)
    found = set()
    for strand, bases in ((1, contig), (-1, "".join(complement(b) for b in reversed(contig)))):
        for offset in range(3):
            protein, begin = "", offset
            for place in range(offset, n + 1, 3):
                codon = bases[place : place + 3]
                one = residue(codon) if len(codon) == 3 else "*"
                if one != "*":
                    protein += one
                    continue
                if len(protein) >= min_orf:
                    start, end = begin + 1, begin + 3 * len(protein)
                    if strand < 0:
                        start, end = n + 1 - end, n + 1 - start
                    found.add((strand * (offset + 1), start, end, protein))
                protein, begin = "", place + 3
    return found


@pytest.mark.parametrize("letters", ["ACGT", "acgtACGT", "ACGTACGTACGTNRYSWKMBDHV", "ACGU"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(letters: str, seed: int) -> None:
    rng = random.Random(seed)
    translator = Translator(1)
    for length in (0, 1, 2, 3, 4, 5, 59, 60, 61, 700):
        contig = "".join(rng.choices(letters, k=length))
        orfs = list(find_orfs(contig, translator, 5))
        assert len(set(orfs)) == len(orfs)
        assert set(orfs) == brute_force(contig, 5)


def test_coordinates_lead_back_to_the_contig() -> None:
    rng = random.Random(9)
    contig = "".join(rng.choices("ACGT", k=900))
    for frame, start, end, protein in find_orfs(contig, Translator(11), 10):
        bases = Seq(contig[start - 1 : end])
        if frame < 0:
            bases = bases.reverse_complement()
        assert str(bases.translate(11)) == protein


def test_another_genetic_code() -> None:
    contig = "ATGTGATGA" * 3  # TGA is a stop in code 1, and tryptophan in code 4
    frames = {frame: protein for frame, _, _, protein in find_orfs(contig, Translator(4), 9)}
    assert frames[1] == "MWW" * 3
    assert all(frame != 1 for frame, *_ in find_orfs(contig, Translator(1), 2))


def test_a_fasta_of_contigs(tmp_path: Path) -> None:
    rng = random.Random(10)
    contigs = {f"c|{i}": "".join(rng.choices("ACGTacgtN", k=400)) for i in range(5)}
    text = "".join(f">{name} some words\n{contig}\n" for name, contig in contigs.items())
    (tmp_path / "in.fa.gz").write_bytes(gzip.compress(text.encode()))
    translate_contigs([tmp_path / "in.fa.gz"], tmp_path / "orfs.fasta", 1, 12)
    found = set()
    for identifier, protein in read_fasta(tmp_path / "orfs.fasta"):
        contig, frame, start, end = parse_orf_id(identifier)
        assert identifier == f"{contig}|frame{frame:+d}|{start}-{end}"
        found.add((contig, frame, start, end, protein))
    expected = {(name, *orf) for name, contig in contigs.items() for orf in brute_force(contig, 12)}
    assert found == expected


@pytest.mark.parametrize(
    ("contig", "code", "min_orf", "message"),
    [
        ("ACGTJ", 1, 1, r"in\.fa, record 'c': 'J' at base 5 is no nucleotide"),
        ("ACGT-A", 1, 1, r"'-' at base 5 is no nucleotide"),
        ("ACGTACGT", 1, 30, r"no open reading frame has 30 residues; lower min_orf"),
        ("ACGT", 7, 1, r"genetic_code: 7: Biopython knows 1, 2, "),
    ],
)
def test_what_cannot_be_translated_is_named(
    tmp_path: Path, contig: str, code: int, min_orf: int, message: str
) -> None:
    (tmp_path / "in.fa").write_text(f">c\n{contig}\n")
    with pytest.raises(InputError, match=message):
        translate_contigs([tmp_path / "in.fa"], tmp_path / "orfs.fasta", code, min_orf)
    assert not (tmp_path / "orfs.fasta").exists()
