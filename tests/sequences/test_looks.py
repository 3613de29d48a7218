"""What is no sequence is told from what is one, whatever its letters."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sequences import AMINO_ACIDS, random_sequence
from spotesm.base.failures import InputError
from spotesm.sequences.fasta import Batch, Record, RejectedSequence, normalise, read_batches
from spotesm.sequences.looks import is_nucleic_acid, look_at, look_at_letters
from spotesm.sequences.sharding import split_fasta

P1 = (
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQTLGQHDFSAGE"
    "GLYTHM"
)
THREE = re.findall("...", "MetLysThrAlaTyrIleAlaLysGlnArgGlnIleSerPheValLysAspTrpProCys")
CODES, STRUCTURE = "three-letter codes", "letters of structure"
SECONDARY, WORDS, PAGE = "secondary structure", "words", "a web page"
HELIX = "CCCHHHHHHHHHHHHCCCEEEEECCCEEEEECCCHHHHHHHHHC"


def wrap(sequence: str, width: int) -> str:
    return "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width))


NO_SEQUENCES = [
    # three-letter codes: glued, with blanks, with dashes; in any case; over lines; with ends
    ("".join(THREE), CODES, 1),
    ("".join(THREE).upper(), CODES, 1),
    ("".join(THREE).lower(), CODES, 1),
    (wrap("".join(THREE), 20), CODES, 1),
    *((joint.join(THREE), CODES, 1) for joint in (" ", "-", "\n", ", ", "  ")),
    *((joint.join(THREE).upper(), CODES, 1) for joint in (" ", "-", "\n")),
    (" ".join(THREE).lower(), CODES, 1),
    ("H-" + "-".join(THREE) + "-OH", CODES, 1),
    ("H-Gly-Phe-OH", CODES, 1),
    ("MetLys", CODES, 1),
    ("Met-Lys*", CODES, 1),
    ("MetLysThrXaaAla", CODES, 1),
    ("ALACYSXXXASPGLUPHE", CODES, 1),
    # structure letters between residues
    ("MdKp", STRUCTURE, 1),
    ("MdKpTvAlYdIp", STRUCTURE, 1),
    ("M#KpT#AlYd#p", STRUCTURE, 1),
    ("MdKpT\nvAlYdIp*", STRUCTURE, 1),
    # secondary structure
    (HELIX, SECONDARY, 1),
    (wrap(HELIX, 20), SECONDARY, 1),
    (HELIX.lower(), SECONDARY, 1),
    (HELIX.replace("C", "-"), SECONDARY, 1),
    (HELIX.replace("C", "L"), SECONDARY, 1),
    ("    HHHHHHHHHHHHHHHTTTHHHHHHHHHHHHHHH GGGGGGSTTTTT  SSHHHHHH  HHHHHHH", SECONDARY, 1),
    ("  EEEEE TT  EEEEEEESS EEEE  EEEEETTEEEE", SECONDARY, 1),
    ("CCCCCCCCCHHHHHHHHHHHHHHHHHHHHHHHHHHHHHCC", SECONDARY, 1),
    ("HHHHHHHHHHHHHHHHHHHHHHHT", SECONDARY, 1),
    ("CCCCCCCCCCCCCCCCCCCCSS", SECONDARY, 1),
    # words: on their own, behind residues, before them, in between
    (f"{P1[:22]}\nSupplied id parameter is empty.", WORDS, 2),
    (f"{P1[:22]}Supplied id parameter is empty.", WORDS, 1),
    (f"{P1[:38]}\nNo entries found", WORDS, 2),
    (f"{P1[:38]}\nno entries found", WORDS, 2),
    (f"{P1[:22]}\nService Unavailable", WORDS, 2),
    (f"{P1[:22]}\nSERVICE UNAVAILABLE", WORDS, 2),
    (f"{P1[:22]}\nNO ENTRIES FOUND", WORDS, 2),
    (f"{wrap(P1, 60)}\nBad Gateway\n", WORDS, 3),
    (f"{wrap(P1, 60)}\n\nPlease wait\n", WORDS, 4),
    (f"{wrap(P1, 60)}\nError: not found\n", WORDS, 3),
    (f"{wrap(P1, 60)}\nForbidden", WORDS, 3),
    (f"{wrap(P1, 60)}\nerror\n", WORDS, 3),
    (f"{wrap(P1, 60)}\nNull\n", WORDS, 3),
    (f"{wrap(P1, 60)}\nTimeout.", WORDS, 3),
    ("No sequence available", WORDS, 1),
    (f"hypothetical protein\n{wrap(P1, 60)}", WORDS, 1),
    (f"{P1[:60]}\nResults may be wrong here\n{P1[60:]}", WORDS, 2),
    # the web
    (f"{wrap(P1, 60)}\n<!DOCTYPE html>\n<html><body>no</body></html>", PAGE, 3),
    (f"{P1}<br>", PAGE, 1),
    ("<p>Error</p>", PAGE, 1),
]


@pytest.mark.parametrize(("body", "what", "line"), NO_SEQUENCES)
def test_what_is_no_sequence_is_rejected_with_what_it_looks_like(
    body: str, what: str, line: int
) -> None:
    for end in ("", "\n"):
        with pytest.raises(RejectedSequence) as caught:
            normalise(Record(b"x", (body + end).encode(), b""))
        assert caught.value.reason.keyword == "not_a_sequence"
        assert caught.value.reason.detail.startswith(f"looks like {what}")
        assert caught.value.line == line


def test_what_the_pdb_calls_secondary_structure_is_none_however_short() -> None:
    assert look_at_letters(b"101M:A:secstr", b"TTHH") == look_at(b"101M:A:secstr", b" TT  HH ")
    assert look_at_letters(b"101M:A:secstr", b"TTHH").what.startswith(SECONDARY)
    assert look_at_letters(b"101M:A:sequence", b"TTHH") is None


# -- what is one -----------------------------------------------------------------------------------

LAYOUTS = {
    "plain": lambda s: s,
    "lower": str.lower,
    "first-upper": lambda s: s[0] + s[1:].lower(),
    "masked-tail": lambda s: s[: len(s) // 2] + s[len(s) // 2 :].lower(),
    "masked-runs": lambda s: "".join(
        s[i : i + 7].lower() if i // 7 % 2 else s[i : i + 7] for i in range(0, len(s), 7)
    ),
    "blocks": lambda s: " ".join(s[i : i + 10] for i in range(0, len(s), 10)),
    "masked-blocks": lambda s: " ".join(
        s[i : i + 10].lower() if i // 10 % 3 else s[i : i + 10] for i in range(0, len(s), 10)
    ),
    "spaced": " ".join,
    "wrapped": lambda s: wrap(s, 60),
    "wrapped-masked": lambda s: wrap(s[:5] + s[5:].lower(), 60),
    "stop": lambda s: s + "*",
    "gaps": lambda s: "--".join(s[i : i + 9] for i in range(0, len(s), 9)),
    "lines-masked-in-turn": lambda s: "\n".join(
        line.lower() if i % 2 else line for i, line in enumerate(wrap(s, 60).split("\n"))
    ),
}
PROTEINS = [
    P1,
    "G",
    "GIGAVLKVLTTGLPALISWIKRKRQQ",
    "GGGGSGGGGSGGGGSAAA",
    "MGSSHHHHHHSSGLVPRGSHM",
    "GSHHHHHHSSGLEPTGTS",  # a tag, and letters of secondary structure alone
    "EEEEEEEEEEEEEEEEEEGEEEE",
    "GEGEEGEEEGEEEEGEGEEEEEGEG",
    "ALAALAALAALAALAALA",
    "SERSERSERSERSERSER",
    "METHIONINELEADS",
    "VALVALVALVAL",
    "GAGAGSGAGAGYGAGAGS",
    "MSLGRLCRLLKPALLCGALAAPGLAGTMCASRDDWRCARSMHEFSAKDIDGHMVNLDKYRGFVCIVTNVASQUGKTEVNY",
    "XBZUO",
    "SGGDILQSGCUG",
    "QQQQQQQQQQQQQQQQQQQQ",
    "CCGPTACCAGC",
    "PPGPPGPPGPPGPPGPPG",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("protein", PROTEINS)
def test_proteins_are_taken_however_they_are_written(protein: str, layout: str) -> None:
    written = LAYOUTS[layout](protein)
    assert normalise(Record(b"x", written.encode(), b"")).sequence == protein.encode()


def test_a_reading_frame_of_repeats_is_one() -> None:
    record = Record(b"c|frame+1|1-123", b"C" * 40, b"")
    assert normalise(record).sequence == record.raw
    with pytest.raises(RejectedSequence, match="secondary structure"):
        normalise(record._replace(name=b"c"))


@given(st.integers(0, 1 << 32), st.integers(1, 150), st.sampled_from(sorted(LAYOUTS)))
def test_random_proteins_are_taken(seed: int, length: int, layout: str) -> None:
    protein = random_sequence(random.Random(seed), length)
    written = LAYOUTS[layout](protein)
    assert normalise(Record(b"x", written.encode(), b"")).sequence == protein.encode()


@given(st.text(AMINO_ACIDS, min_size=1, max_size=90), st.lists(st.booleans(), min_size=90))
def test_any_masking_is_taken_but_every_other_letter(protein: str, masked: list[bool]) -> None:
    text = "".join(a.lower() if m else a for a, m in zip(protein, masked, strict=False))
    assume(not re.fullmatch("([A-Z][a-z]){2,}", text))
    assume(not re.match("([A-Z][a-z]{2}){2}", text))  # Met, Lys
    assume(look_at_letters(b"", protein.encode()) is None)
    assert look_at(b"x", text.encode()) is None


@given(st.text("EGST", max_size=100), st.text("AGSTPKVL", max_size=100), st.integers(1, 60))
def test_low_complexity_is_taken(acidic: str, other: str, width: int) -> None:
    for protein in (acidic, other):
        assert look_at_letters(b"x", protein.encode()) is None
        assert look_at(b"x", wrap(protein.lower(), width).encode()) is None


# -- chains of DNA and RNA -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "description", "alike"),
    [
        (b"CGCGAATTCGCG", b"", True),
        (b"GCGGAUUUAGCUCAGUUGG", b"", True),
        (b"CGCGAATT", b"", True),
        (b"CGCGAAT", b"", False),
        (b"CGCGAATR", b"", False),
        (b"CGCG", b"mol:na length:4  DNA", True),
        (b"CGCG", b"mol:protein length:4", False),
        (b"CGXRG", b"mol:na length:5", True),
        (b"CGEFG", b"mol:na length:5", False),
        (b"GAGAGSGAGA", b"", False),
    ],
)
def test_chains_of_nucleic_acid(sequence: bytes, description: bytes, alike: bool) -> None:
    assert is_nucleic_acid(sequence, description) == alike


# -- through the split -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(("body", "what", "line"), NO_SEQUENCES[::3])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_the_split_names_file_and_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    body: str,
    what: str,
    line: int,
    block: int,
) -> None:
    monkeypatch.setattr("spotesm.sequences.fasta.BLOCK_BYTES", block)
    bodies = [wrap(P1[i:], 30) for i in range(7)]
    bodies[place] = body
    texts = [f">p{i} of some kind\n{text}\n" for i, text in enumerate(bodies)]
    path = tmp_path / "in.fasta"
    path.write_text("".join(texts))
    split_fasta([path], [tmp_path / "1"], tmp_path / "rejected", tmp_path / "counts")
    (said,) = (tmp_path / "rejected").read_text().splitlines()[1:]
    header = "".join(texts[:place]).count("\n") + 1
    assert said.startswith(f"{place}\tp{place}\tsplit\tnot_a_sequence\tlooks like {what}")
    assert said.endswith(f"({path}, line {header + line})")
    assert (tmp_path / "1").read_text().splitlines()[1::2] == [
        P1[i:] for i in range(7) if i != place
    ]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def batches_of(path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> list[Batch]:
    monkeypatch.setattr("spotesm.sequences.fasta.BLOCK_BYTES", block)
    return list(read_batches([path]))


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([">a1", P1 + ">b1 second", P1, ">b2", P1], 2),
        ([">a1", P1, P1[:9] + "*>b1 second", P1, ">b2", P1], 3),
        ([">a1 x->y", P1, ">a2", P1, ">a3", P1 + ">b1"], 6),
        ([">a1 x->y", P1, ">a2 <b>", P1, ">a3", P1[:3], " >b1", P1], 7),
        ([">a1", ">", P1, "*>b1"], 4),
        (["; >no", ">a1", P1, "", P1.lower() + "> b1", P1], 5),
    ],
)
def test_a_header_glued_to_a_line_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], number: int, block: int
) -> None:
    path = write(tmp_path / "in", "\n".join([*lines, ""]))
    with pytest.raises(InputError, match=f"^{path}, line {number}: a '>' behind residues"):
        batches_of(path, monkeypatch, block)


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_a_header_may_hold_what_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    text = ">a1 x->y >z\nMK\n>>b\nAC\n>c;P1; P1;x\nDE\n>d <p>\n<p>\nMK</p>\n"
    batches = batches_of(write(tmp_path / "in", text), monkeypatch, block)
    assert [name for batch in batches for name in batch.names] == [b"a1", b">b", b"c;P1;", b"d"]


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("kind", ["P1", "F1", "XX", "N1", "DL"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_pir_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, kind: str, block: int
) -> None:
    records = [f">p{i}\n{P1}\n" for i in range(5)]
    records[place] = f">{kind};CRAB_ANAPL\nALPHA CRYSTALLIN B CHAIN\n{P1}*\n"
    path = write(tmp_path / "in", "".join(records))
    with pytest.raises(InputError, match=rf"in, line {2 * place + 1}: not FASTA .*like PIR"):
        batches_of(path, monkeypatch, block)


@pytest.mark.parametrize("place", [0, 10, 20])
def test_short_chains_are_counted_and_warned_of(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    records = [(f"p{i}", P1[i:]) for i in range(19)]
    records[place:place] = [("dna mol:na length:6", "CGCGCG"), ("rna", "GCGGAUUUAGCUCAGUUGG")]
    path = write(tmp_path / "in", "".join(f">{name}\n{text}\n" for name, text in records))
    split_fasta(
        [path], [tmp_path / "1"], tmp_path / "r", tmp_path / "counts", surely_proteins=False
    )
    assert '"n_like_nucleotides": 2' in (tmp_path / "counts").read_text()
    assert "2 sequences are made of the letters of nucleotides alone" in caplog.text
