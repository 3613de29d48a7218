import gzip
from pathlib import Path

import pytest
from spotesm.base.failures import InputError
from spotesm.sequences.fasta import RejectedSequence, normalise_sequence, read_fasta
from spotesm.sequences.reasons import Reason


def compress(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same bytes, and test names, in every process


def read(path: Path, content: bytes) -> list[tuple[str, str]]:
    path.write_bytes(content)
    return list(read_fasta(path))


@pytest.mark.parametrize(
    "content",
    [
        b">a first\nMK\nV\n>b\nACD\n",
        b">a first\r\nMK\r\nV\r\n>b\r\nACD\r\n",
        b">a\rMKV\r>b\rACD\r",
        b"\n\n>a\n\nMK\n\nV\n\n>b\nACD\n\n\n",
        b">a\nMKV\n>b\nACD",
        b">a\nM K V\n>b\nAC D ",
        b"\xef\xbb\xbf>a\nMKV\n>b\nACD\n",
        compress(b">a\nMKV\n>b\nACD\n"),
        compress(b">a\nMKV\n") + compress(b">b\nACD\n"),
    ],
    ids=["plain", "crlf", "cr", "blank", "no-newline", "spaces", "bom", "gzip", "two-gzip-members"],
)
def test_reads_what_is_fasta(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "in", content) == [("a", "MKV"), ("b", "ACD")]


def test_a_line_may_be_long(tmp_path: Path) -> None:
    sequence = "ACDEFGHIKL" * 500_000
    assert read(tmp_path / "in", f">a\n{sequence}\n".encode()) == [("a", sequence)]


def test_odd_headers_are_kept(tmp_path: Path) -> None:
    content = ">\nMK\n>ö|ü/../x;$(rm)<b> rest\nAC\n> spaced\nDE\n".encode()
    ids = [identifier for identifier, _ in read(tmp_path / "in", content)]
    assert ids == ["", "ö|ü/../x;$(rm)<b>", "spaced"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"\nMKV\n", "line 2: not FASTA"),
        (b">a\nMKV\n>b\xff\nAC\n", "line 3: not UTF-8 text"),
        (b">a\nMK\0V\n", r"line 2: not a text file \(it holds a NUL byte\)"),
        (compress(b">a\n" + b"MKV\n" * 9999)[:-20], "truncated gzip file"),
        (compress(b""), "the file is empty"),
        (b"\x1f\x8bnot really", "gzip file"),
    ],
)
def test_refuses_what_is_not(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / 'in'}.*{message}"):
        read(tmp_path / "in", content)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(read_fasta(tmp_path / "none"))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_fasta(tmp_path))


@pytest.mark.parametrize(
    ("raw", "sequence", "replaced"),
    [
        ("mkv", b"MKV", 0),
        ("MKV*", b"MKV", 0),
        ("M-K.V-", b"MKV", 0),
        ("MK-*-", b"MK", 0),
        ("MJKJ", b"MXKX", 2),
        ("BUZOX", b"BUZOX", 0),
    ],
)
def test_normalises(raw: str, sequence: bytes, replaced: int) -> None:
    assert normalise_sequence(raw) == (sequence, replaced)


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        ("", "empty", "no residues"),
        ("*", "empty", "no residues"),
        ("--.", "empty", "no residues"),
        ("MK*V", "invalid_character", "'*' at residue 3"),
        ("MKV**", "invalid_character", "'*' at residue 4"),
        ("MK1", "invalid_character", "'1' at residue 3"),
        ("MÄK", "invalid_character", "'Ä' at residue 2"),
        ("M\tK", "invalid_character", r"'\t' at residue 2"),
    ],
)
def test_rejects(raw: str, reason: str, detail: str) -> None:
    with pytest.raises(RejectedSequence) as caught:
        normalise_sequence(raw)
    assert caught.value.reason == Reason(reason, detail)
