"""Six-frame translation against an independent brute force, and against Biopython."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from Bio.Seq import Seq
from spotesm.base.failures import InputError, TooManyRejectedError
from spotesm.sequences.fasta import read_fasta
from spotesm.sequences.rejected import read_rejected
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


def in_gap(codons: list[str], place: int) -> bool:
    """Whether a codon is one of three or more unknown ones in a row."""
    runs = (range(first, first + 3) for first in range(place - 2, place + 1))
    return any(all(0 <= i < len(codons) and residue(codons[i]) == "X" for i in run) for run in runs)


def brute_force(contig: str, min_orf: int) -> set[tuple[int, int, int, str]]:
    """Walk along every frame, codon by codon."""
    contig = contig.upper()
    n = len(contig)
    found = set()
    for strand, bases in ((1, contig), (-1, "".join(complement(b) for b in reversed(contig)))):
        for offset in range(3):
            protein, begin = "", offset
            codons = [bases[i : i + 3] for i in range(offset, n - 2, 3)]
            for place in range(offset, n + 1, 3):
                codon = bases[place : place + 3]
                one = residue(codon) if len(codon) == 3 else "*"
                if one != "*" and not in_gap(codons, (place - offset) // 3):
                    protein += one
                    continue
                if len(protein) >= min_orf:
                    start, end = begin + 1, begin + 3 * len(protein)
                    if strand < 0:
                        start, end = n + 1 - end, n + 1 - start
                    found.add((strand * (offset + 1), start, end, protein))
                protein, begin = "", place + 3
    return found


def orfs_of(contig: str, translator: Translator, min_orf: int) -> list[tuple[int, int, int, str]]:
    orfs = find_orfs(contig.encode(), translator, min_orf, Counter())
    return [(frame, start, end, protein.decode()) for frame, start, end, protein in orfs]


@pytest.mark.parametrize(
    "letters", ["ACGT", "acgtACGT", "ACGTACGTACGTNRYSWKMBDHV", "ACGTNNN", "ACGU"]
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(letters: str, seed: int) -> None:
    rng = random.Random(seed)
    translator = Translator(1)
    for length in (1, 2, 3, 4, 5, 59, 60, 61, 700):
        contig = "".join(rng.choices(letters, k=length))
        orfs = orfs_of(contig, translator, 5)
        assert len(set(orfs)) == len(orfs)
        assert set(orfs) == brute_force(contig, 5)


def test_coordinates_lead_back_to_the_contig() -> None:
    rng = random.Random(9)
    contig = "".join(rng.choices("ACGT", k=900))
    for frame, start, end, protein in orfs_of(contig, Translator(11), 10):
        bases = Seq(contig[start - 1 : end])
        if frame < 0:
            bases = bases.reverse_complement()
        assert str(bases.translate(11)) == protein


def test_another_genetic_code() -> None:
    contig = "ATGTGATGA" * 3  # TGA is a stop in code 1, and tryptophan in code 4
    frames = {frame: protein for frame, _, _, protein in orfs_of(contig, Translator(4), 9)}
    assert frames[1] == "MWW" * 3
    assert all(frame != 1 for frame, *_ in orfs_of(contig, Translator(1), 2))


def translate(folder: Path, content: bytes, min_orf: int = 2, **settings: object) -> list:
    """Translate a file; the ids and proteins, the counts, and the rejected contigs."""
    (folder / "in.fa").write_bytes(content)
    settings = {"genetic_code": 1, "max_rejected": 1, "kept": folder / "kept.tsv", **settings}
    orfs, rejected, summary = (folder / name for name in ("orfs.fasta", "rejected.tsv", "n.json"))
    translate_contigs([folder / "in.fa"], orfs, rejected, summary, min_orf=min_orf, **settings)
    proteins = [(record.identifier, record.raw.decode()) for record in read_fasta([orfs])]
    return [proteins, json.loads(summary.read_text()), list(read_rejected(rejected))]


def test_a_fasta_of_contigs(tmp_path: Path) -> None:
    rng = random.Random(10)
    contigs = {f"c|{i}": "".join(rng.choices("ACGTacgtN", k=400)) for i in range(5)}
    text = "".join(f">{name} some words\n{contig}\n" for name, contig in contigs.items())
    proteins, counts, rejected = translate(tmp_path, gzip.compress(text.encode()), min_orf=12)
    found = set()
    for identifier, protein in proteins:
        contig, frame, start, end = parse_orf_id(identifier)
        assert identifier == f"{contig}|frame{frame:+d}|{start}-{end}"
        found.add((contig, frame, start, end, protein))
    expected = {(name, *orf) for name, contig in contigs.items() for orf in brute_force(contig, 12)}
    assert found == expected
    assert (counts["n_contigs"], counts["n_rejected_contigs"], rejected) == (5, 0, [])


@pytest.mark.parametrize("at", ["start", "middle", "end", "all"])
def test_reading_frames_end_at_gaps_and_what_is_left_out_is_counted(
    tmp_path: Path, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    gap, left, right = "N" * 102, "ATGGCTGCAGCC", "GCTGCAGCAGAA"
    contig = {"start": gap + right, "middle": left + gap + right, "end": left + gap, "all": gap}[at]
    proteins, counts, _ = translate(tmp_path, f">c\n{contig}\n>d\n{left}\n".encode(), min_orf=3)
    assert {protein for _, protein in proteins if "X" in protein} == set()
    forward = [(i, p) for i, p in proteins if i.startswith("c|frame+1|")]
    pieces = [("c|frame+1|1-12", "MAAA")] * (at in ("middle", "end"))
    start = contig.rfind("N") + 2
    pieces += [(f"c|frame+1|{start}-{start + 11}", "AAAE")] * (at in ("start", "middle"))
    assert forward == pieces
    # 33 or 34 codons lie in the gap, and one or two at its edges may be unknown.
    assert 6 * 33 <= counts["n_unknown_codons"] <= 6 * 35
    assert "unknown codons, in runs of 3 or more, were left out" in caplog.text


@pytest.mark.parametrize(
    ("n", "broken"), [(1, False), (3, False), (4, False), (9, True), (10, True), (12, True)]
)
def test_a_few_unknown_bases_are_no_gap(tmp_path: Path, n: int, broken: bool) -> None:
    contig = "ATGGCTGCAGCC" + "N" * n + "GCTGCAGCAGAA"
    proteins, counts, _ = translate(tmp_path, f">c\n{contig}\n".encode(), min_orf=4)
    (first, *_) = [protein for i, protein in proteins if i.startswith("c|frame+1|1-")]
    assert (first == "MAAA") == broken
    assert ("X" in first) != broken
    assert (counts["n_unknown_codons"] > 0) == broken


def test_contigs_that_cannot_be_translated_are_rejected(tmp_path: Path) -> None:
    good = "ATGGCTGCAGCC"
    contigs = [good, "MKTAYIAKQR", good, "", good, "ACGT-A", good, " A C G T ", "ACGT\xe9", good]
    text = "".join(f">c{i}\n{contig}\n" for i, contig in enumerate(contigs)).encode("latin-1")
    proteins, counts, rejected = translate(tmp_path, text, max_rejected=0.4)
    assert [tuple(line) for line in rejected] == [
        (1, "c1", "translate", "invalid_character", "'I' at base 6 is no nucleotide"),
        (3, "c3", "translate", "empty", "no bases"),
        (5, "c5", "translate", "invalid_character", "'-' at base 5 is no nucleotide"),
        (8, "c8", "translate", "invalid_character", "'é' at base 5 is no nucleotide"),
    ]
    assert {i.partition("|")[0] for i, _ in proteins} == {"c0", "c2", "c4", "c6", "c9"}
    assert (counts["n_contigs"], counts["n_rejected_contigs"]) == (10, 4)
    assert counts["n_removed_from_contigs"] == 3  # at its ends a line may have margins
    (tmp_path / "orfs.fasta").unlink()
    with pytest.raises(
        TooManyRejectedError, match=r"4 of 10 contigs .*kept\.tsv lists them.* 1 'c1' "
    ):
        translate(tmp_path, text, max_rejected=0.3)
    assert list(read_rejected(tmp_path / "kept.tsv")) == rejected
    assert not (tmp_path / "orfs.fasta").exists()


@pytest.mark.parametrize(
    ("contig", "code", "min_orf", "message"),
    [
        ("ACGTACGT", 1, 30, r"no open reading frame has 30 residues; lower min_orf"),
        ("ACGT", 7, 1, r"genetic_code: 7: Biopython knows 1, 2, "),
    ],
)
def test_what_cannot_be_translated_is_named(
    tmp_path: Path, contig: str, code: int, min_orf: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        translate(tmp_path, f">c\n{contig}\n".encode(), min_orf, genetic_code=code)
    assert not (tmp_path / "orfs.fasta").exists()
