import bz2
import gzip
import logging
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from spotesm.base.failures import InputError
from spotesm.sequences import fasta
from spotesm.sequences.compression import zstd
from spotesm.sequences.fasta import Record, RejectedSequence, normalise, read_fasta
from spotesm.sequences.reasons import Reason

FASTA = b">a first\nMKV\n>b\nACD\n"
COMPRESSORS = {
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: zstd.compress(
        content, options={zstd.CompressionParameter.checksum_flag: 1}
    ),
}
PZSTD_FIRST = b"\x50\x2a\x4d\x18\x04\0\0\0\x10\0\0\0"  # a frame that readers skip
each_compressor = pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)


def read(path: Path, content: bytes) -> list[tuple[str, str]]:
    path.write_bytes(content)
    return [(record.identifier, record.raw.decode()) for record in read_fasta([path])]


@pytest.mark.parametrize(
    "content",
    [
        FASTA,
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.replace(b"\n", b"\r"),
        b"\n\n>a\n\nMK\n\nV\n\n>b\nACD\n\n\n",
        b">a\nMKV\n>b\nACD",
        b">a\n MK\nV \t\n>b\n\tACD \f\n\f\n",
        b"\xef\xbb\xbf>a\nMKV\n>b\nACD\n",
        b"; of 1990\n# 2026\n\n>a\nMKV\n>b\nACD\n",
        b">a Universit\xe9\nMKV\n>b\nACD\n",
    ],
    ids=["lf", "crlf", "cr", "blank", "no-newline", "margins", "bom", "comments", "latin-1"],
)
def test_reads_what_is_fasta(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "in", content) == [("a", "MKV"), ("b", "ACD")]


@each_compressor
def test_reads_what_is_compressed_by_its_content(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    expected = [("a", "MKV"), ("b", "ACD")]
    half = len(FASTA) // 2
    members = compress(FASTA[:half]) + compress(b"") + compress(FASTA[half:])
    whole = compress(FASTA)
    twice = compress(whole[:1]) + compress(whole[1:])
    for content in (whole, members, compress(whole), twice, whole + b"\0\0"):
        assert read(tmp_path / "in.fasta", content) == expected


@pytest.mark.parametrize("kind", [0, 7, 15])
def test_reads_what_pzstd_wrote(tmp_path: Path, kind: int) -> None:
    """A frame to be skipped is in front; there are sixteen kinds of it."""
    first = bytes([PZSTD_FIRST[0] + kind]) + PZSTD_FIRST[1:]
    assert len(read(tmp_path / "in", first + zstd.compress(FASTA))) == 2


@each_compressor
def test_nothing_of_a_damaged_file_is_taken_for_all_of_it(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    whole = compress(FASTA)
    second = bytearray(compress(FASTA * 50))
    second[len(second) // 2] ^= 0xFF
    for content in (whole + bytes(second), whole + b"rubbish", whole + whole[:-1], whole[:-1]):
        (tmp_path / "in").write_bytes(content)
        with pytest.raises(InputError, match=r"damaged or truncated .* fetch or compress it again"):
            list(read_fasta([tmp_path / "in"]))
    for end in range(1, len(whole)):
        with pytest.raises(InputError):
            read(tmp_path / "in", whole[:end])


def test_a_line_may_be_long(tmp_path: Path) -> None:
    sequence = "ACDEFGHIKL" * 500_000
    assert read(tmp_path / "in", f">a\n{sequence}\n".encode()) == [("a", sequence)]


@pytest.mark.parametrize(
    ("header", "identifier", "description"),
    [
        (b"", "", b""),
        ("ö|ü/../x;$(rm)<b> rest".encode(), "ö|ü/../x;$(rm)<b>", b"rest"),
        (b" spaced", "spaced", b""),
        (b"a\tb c", "a", b"b c"),
        (b"a b\tc", "a", b"b\tc"),
        ("a\u00a0b rest".encode(), "a\u00a0b", b"rest"),
        ("à".encode(), "à", b""),  # its last byte is a no-break space in Latin-1
        ("a\u2028b\u3000\x85 c".encode(), "a\u2028b\u3000\x85", b"c"),
        (b"a\x0b\x0c\x1cb", "a\x0b\x0c\x1cb", b""),
        (b'a"b\'\\ "c', "a\"b'\\", b'"c'),
        (b"a \xff\xfe", "a", b"\xff\xfe"),
        (b">a", ">a", b""),
    ],
)
def test_an_id_ends_at_a_space_or_tab_alone(
    tmp_path: Path, header: bytes, identifier: str, description: bytes
) -> None:
    path = tmp_path / "in"
    path.write_bytes(b">first\nMK\n>" + header + b"\nAC\n>last\nMK\n")
    assert list(read_fasta([path]))[1] == Record(identifier.encode(), b"AC\n", description)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n; nothing\n", "the file is empty"),
        (b"\nMKV\n", "line 2: not FASTA; the first line with text must begin with '>'"),
        (b"@r1\nACGT\n+\nIIII\n", "line 1: not FASTA .it looks like FASTQ.; the first line"),
        (b"<!doctype html>", "it looks like a web page"),
        (b"# note\nLOCUS  X\n", "line 2: not FASTA .it looks like GenBank."),
        (b">a\nMKV\n>b\xff\nAC\n", "line 3: its id is not UTF-8 text"),
        (b">a\nMK\0V\n", r"line 2: not a text file \(it holds a NUL byte\)"),
        (b"in.fasta" + b"\0" * 249 + b"ustar", "a tar archive"),
        (b"PK\x03\x04", "a zip archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (">a\nMK\n".encode("utf-16"), "UTF-16 text; convert it"),
        (">a\nMK\n".encode("utf-16-be"), "UTF-16 text; convert it"),
        (">a\nMK\n".encode("utf-16-le"), "UTF-16 text; convert it"),
        (gzip.compress(b"PK\x03\x04", mtime=0), "a zip archive"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\x1f\x8bnot really", "damaged or truncated"),
    ],
)
def test_refuses_what_is_not(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / 'in'}.*{message}"):
        read(tmp_path / "in", content)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(read_fasta([tmp_path / "none"]))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_fasta([tmp_path]))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_empty_file_among_others_is_a_warning(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    contents = [FASTA, FASTA]
    contents.insert(place, b"")
    paths = [tmp_path / f"{i}.fasta" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert [record.identifier for record in read_fasta(paths)] == ["a", "b", "a", "b"]
    assert caplog.messages == [f"{paths[place]}: the file is empty"]


def test_empty_files_alone_are_an_error(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.fasta" for i in range(3)]
    for path in paths:
        path.touch()
    with pytest.raises(InputError, match=r"0\.fasta: the file is empty, and so are 2 more"):
        list(read_fasta(paths))


@pytest.mark.parametrize(
    ("raw", "sequence", "replaced", "removed"),
    [
        ("mkv", b"MKV", 0, 0),
        ("MKV*", b"MKV", 0, 0),
        ("MKV.", b"MKV", 0, 0),
        ("M-K V--", b"MKV", 0, 4),
        ("MK-*-", b"MK", 0, 2),
        ("MJKJ", b"MXKX", 2, 0),
        ("BUZOX", b"BUZOX", 0, 0),
    ],
)
def test_normalises(raw: str, sequence: bytes, replaced: int, removed: int) -> None:
    assert normalise(Record(b"", raw.encode(), b"")) == (sequence, replaced, removed)


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (b"", "empty", "no residues"),
        (b"*", "empty", "no residues"),
        (b".", "empty", "no residues"),
        (b"-- ", "empty", "no residues"),
        (b"MK*V", "invalid_character", "'*' at residue 3"),
        (b"MKV**", "invalid_character", "'*' at residue 4"),
        (b"MK.V", "invalid_character", "'.' at residue 3"),
        (b".MKV", "invalid_character", "'.' at residue 1"),
        (b"MKV.*", "invalid_character", "'.' at residue 4"),
        (b"MK1", "invalid_character", "'1' at residue 3"),
        (b"1", "invalid_character", "'1' at residue 1"),
        (b"MK;note", "invalid_character", "';' at residue 3"),
        ("MÄK".encode(), "invalid_character", "'Ä' at residue 2"),
        ("MK\u00a0".encode(), "invalid_character", r"'\xa0' at residue 3"),
        (b"M\xe4K", "invalid_character", "'ä' at residue 2"),
        (b"M\tK", "invalid_character", r"'\t' at residue 2"),
        (
            b"MK:LV",
            "invalid_character",
            "':' at residue 3; each chain needs a record of its own",
        ),
        (b"MK/LV/A", "invalid_character", "'/' at residue 3; each chain needs a record of its own"),
    ],
)
def test_rejects(raw: bytes, reason: str, detail: str) -> None:
    with pytest.raises(RejectedSequence) as caught:
        normalise(Record(b"", raw, b""))
    assert caught.value.reason == Reason(reason, detail)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"p1\tMKTAYIAKQR", True),
        (b"p1 MKTAYIAKQR", True),
        (b"p1\thypothetical", False),
        (b"p1 MKTAYIAKQR homolog", False),
        (b"p1 MK", False),
        (b"p1", False),
    ],
)
def test_a_sequence_in_the_header_is_recognised(tmp_path: Path, header: bytes, said: bool) -> None:
    (tmp_path / "in").write_bytes(b">" + header + b"\n")
    (record,) = read_fasta([tmp_path / "in"])
    with pytest.raises(RejectedSequence) as caught:
        normalise(record)
    assert ("seems to stand in the header" in caught.value.reason.detail) == said


# -- blocks ----------------------------------------------------------------------------------------


def read_line_by_line(content: bytes) -> list[tuple[bytes, bytes, bytes]] | str:
    """The records, or where the first fault is; a line, and then another, as one would say it."""
    lines = re.split(rb"\r\n|\r|\n", content.removeprefix(b"\xef\xbb\xbf"))
    records: list[tuple[str, list[bytes], bytes]] = []
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            return f"line {number}: not a text file"
        if line.startswith(b">"):
            identifier, *rest = re.split(rb"[ \t]", line[1:].strip(b" \t"), maxsplit=1)
            try:
                identifier.decode()
            except UnicodeDecodeError:
                return f"line {number}: its id is not UTF-8 text"
            records.append((identifier, [], b"".join(rest)))
        elif records:
            if line.find(b">") >= 0:
                return f"line {number}: a '>' behind residues"
            records[-1][1].append(line.strip(b" \t\v\f"))
        elif line.strip(b" \t\v\f") and not line.startswith((b";", b"#")):
            return f"line {number}: not FASTA"
    return [(name, b"".join(lines), description) for name, lines, description in records]


pieces = st.sampled_from(
    [
        b">",
        b"\n",
        b"\n>",
        b"\r",
        b"\r\n",
        b" ",
        b"\t",
        b"\v",
        b";",
        b"A",
        b"MKV",
        b"a-",
        b"\xc3\xa9",
        b"\xff",
    ]
)


@given(st.lists(pieces, max_size=30).map(b"".join), st.sampled_from([1, 2, 7, 1 << 20]))
@example(b">a\n\n>b\nMK\n>", 2)
@example(b">a\nMKV\nMKV\n>b\nMK\n>\xff\nMK\n", 1 << 20)
@example(b">a\nM\0K\n", 1)
@example(b">a b\nMK\n>c d e\nM \nK\n>f\nMK\n", 1 << 20)
def test_blocks_of_any_size_read_as_line_by_line(content: bytes, size: int) -> None:
    expected = read_line_by_line(content)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(fasta, "BLOCK_BYTES", size)
        path = Path(folder, "in.fasta")
        path.write_bytes(content)
        try:
            read = read_fasta([path])
            assert [(r.name, r.raw, r.description) for r in read] == expected
        except InputError as error:
            said = str(error)
            assert "the file is empty" in said if expected == [] else str(expected) in said
