"""FASTA in: stream records, normalise sequences, say clearly what is wrong."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from Bio.SeqIO.FastaIO import SimpleFastaParser

from spotesm.base.failures import InputError
from spotesm.sequences.alphabet import RESIDUES
from spotesm.sequences.reasons import EMPTY, INVALID_CHARACTER, Reason

GZIP_MAGIC = b"\x1f\x8b"
GAPS = b"-."
_LETTERS_OUTSIDE_ALPHABET = bytes(set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ") - set(RESIDUES))
_UNKNOWN_TO_X = bytes.maketrans(_LETTERS_OUTSIDE_ALPHABET, b"X" * len(_LETTERS_OUTSIDE_ALPHABET))


class RejectedSequence(Exception):
    """A record that cannot be embedded, and why."""

    def __init__(self, keyword: str, detail: str) -> None:
        self.reason = Reason(keyword, detail)
        super().__init__(str(self.reason))


def normalise_sequence(raw: str) -> tuple[bytes, int]:
    """Return the sequence as ESM-2 sees it, and how many residues became X.

    Upper-cased, without gap characters (`-` and `.`) and without one trailing `*`; letters
    outside ESM-2's alphabet become X.

    Raises:
        RejectedSequence: nothing is left (`empty`), or something is no letter
            (`invalid_character`).
    """
    sequence = raw.encode().upper().translate(None, delete=GAPS).removesuffix(b"*")
    if not sequence:
        raise RejectedSequence(EMPTY, "no residues")
    if not sequence.isalpha():
        text = sequence.decode()
        position, character = next(
            (i, c) for i, c in enumerate(text, start=1) if not (c.isascii() and c.isalpha())
        )
        raise RejectedSequence(INVALID_CHARACTER, f"{character!r} at residue {position}")
    known = sequence.translate(None, delete=_LETTERS_OUTSIDE_ALPHABET)
    return sequence.translate(_UNKNOWN_TO_X), len(sequence) - len(known)


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, raw sequence) of every record of a plain or gzipped FASTA file, in order.

    The id is the first word of the header and may be empty. One record is held at a time.

    Raises:
        InputError: the file is missing, unreadable, empty, not text, not FASTA, or a
            damaged gzip file.
    """
    try:
        with open(path, "rb") as raw:
            lines = _CheckedLines(path, raw)
            for title, sequence in SimpleFastaParser(lines):
                yield title.split(maxsplit=1)[0] if title.strip() else "", sequence
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}, after line {lines.number}: damaged or truncated gzip file ({error}); "
            "fetch or compress it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not lines.in_record:
        raise InputError(f"{path}: the file is empty; expected FASTA records")


class _CheckedLines:
    """The text lines of a FASTA file, checked and counted as Biopython's parser takes them."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path = path
        self.number = 0
        self.in_record = False
        gzipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        self._text = io.TextIOWrapper(
            gzip.GzipFile(fileobj=raw) if gzipped else raw,
            encoding="utf-8-sig",
            errors="surrogateescape",  # undecodable bytes come through, so their line is known
        )

    def __iter__(self) -> "_CheckedLines":
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.number += 1
        if "\0" in line:
            raise self._error("not a text file (it holds a NUL byte)")
        if not line.isascii():
            self._check_utf8(line)
        if not self.in_record and not line.isspace():
            if not line.startswith(">"):
                raise self._error("not FASTA; the first line with text must begin with '>'")
            self.in_record = True
        return line

    def _check_utf8(self, line: str) -> None:
        try:
            line.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self._error("not UTF-8 text; convert the file to UTF-8") from error

    def _error(self, problem: str) -> InputError:
        return InputError(f"{self.path}, line {self.number}: {problem}")
