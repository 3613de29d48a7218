"""FASTA in: stream records, normalise sequences, say clearly what is wrong."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from spotesm.base.failures import InputError
from spotesm.sequences.alphabet import RESIDUES
from spotesm.sequences.compression import DAMAGE, open_by_content
from spotesm.sequences.looks import Look, find_doubtful, look_at, look_at_letters
from spotesm.sequences.reasons import EMPTY, INVALID_CHARACTER, NOT_A_SEQUENCE, Reason

log = logging.getLogger(__name__)

BOM = b"\xef\xbb\xbf"
COMMENTS = (b";", b"#")  # what lines before the first record may begin with
MARGINS = b" \t\v\f\n"  # around the sequence on a line: layout
# Numbers: `in` finds a byte in a tenth of the time that bytes of length 1 take.
NUL, NEWLINE, RETURN, SPACE, HEADER, SEMICOLON = b"\0\n\r >;"
RARE_MARGINS = b"\t\v\f"
BLOCK_BYTES = 1 << 17  # what fits into a fast cache, a few times
DELETED = b"- "  # in a sequence: gaps of an alignment, and blanks between blocks of residues
STOPS = (b"*", b".")  # gffread writes the dot
CHAIN_SEPARATORS = ":/"
LEAST_SEQUENCE_IN_HEADER = 5
TAR = "a tar archive; unpack it, and name what is in it"
NOT_TEXT = "not a text file (it holds a NUL byte)"
NOT_UTF_8 = "its id is not UTF-8 text; convert the file to UTF-8"
PIR = (
    "not FASTA (it looks like PIR, whose second lines are titles); convert it, such as by "
    "Biopython's SeqIO.convert from 'pir' to 'fasta'"
)
GLUED = (
    "a '>' behind residues: files may have been joined of which one had no last newline; let the "
    "record begin on a line of its own"
)
# What a file that is no FASTA may begin with.
LOOKS = (
    (b"@", "FASTQ"),
    (b"<", "a web page"),
    (b"LOCUS ", "GenBank"),
    (b"ID ", "EMBL or Swiss-Prot"),
    (b"CLUSTAL", "a Clustal alignment"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)
_HEADERS = re.compile(rb">(?<=^>)", re.MULTILINE)  # `^>` alone takes eight times as long
_GLUED = re.compile(rb"^[^<>\n]*>", re.MULTILINE)  # in the web's pages `<` comes first
_PIR = re.compile(rb"(?:P1|F1|DL|DC|RL|RC|N1|N3|XX);")  # its types of sequences
_ID_ENDS = re.compile(rb"[ \t]")
_LETTERS = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LETTERS_OF_ALPHABET = bytes(_LETTERS & set(RESIDUES))
_LETTERS_OUTSIDE_ALPHABET = bytes(_LETTERS - set(RESIDUES))
_UNKNOWN_TO_X = bytes.maketrans(_LETTERS_OUTSIDE_ALPHABET, b"X" * len(_LETTERS_OUTSIDE_ALPHABET))


class RejectedSequence(Exception):
    """A record that cannot be embedded, and why.

    Attributes:
        line: where one sees it, from 1 on, that after the header; None if it is said otherwise.
    """

    def __init__(self, keyword: str, detail: str, line: int | None = None) -> None:
        self.reason = Reason(keyword, detail)
        self.line = line
        super().__init__(str(self.reason))


class Record(NamedTuple):
    """A record of a FASTA file.

    Attributes:
        name: the header up to the first space or tab, in UTF-8; may be empty.
        body: the lines of the sequence, as they stand there.
        description: what follows in the header, in whatever encoding.
    """

    name: bytes
    body: bytes
    description: bytes

    @property
    def raw(self) -> bytes:
        """The sequence as it stands there, in one piece."""
        return _join_lines(self.body)

    @property
    def identifier(self) -> str:
        """The name as text."""
        return self.name.decode()


class Batch(NamedTuple):
    """Some records that follow one another, by the columns of `Record`, and where they are.

    Attributes:
        path, line: of the first header.
    """

    names: list[bytes]
    bodies: list[bytes]
    descriptions: list[bytes]
    raws: list[bytes]
    path: Path
    line: int

    def records(self) -> Iterator[Record]:
        """Yield one after the other."""
        columns = (self.names, self.bodies, self.descriptions)
        return map(Record._make, zip(*columns, strict=True))

    def place_of(self, number: int, line: int) -> str:
        """Return file and line of a line of one of the records; 0 is its header."""
        before = sum(body.count(b"\n") + 1 for body in self.bodies[:number])
        return f"{self.path}, line {self.line + before + line}"


class Normalised(NamedTuple):
    """A sequence as the models see it.

    Attributes:
        sequence: letters of the models' alphabet, upper-case.
        replaced: how many of them were other letters and became X.
        removed: how many characters between them were deleted.
    """

    sequence: bytes
    replaced: int
    removed: int


def _is_normal(raw: bytes) -> bool:
    """Whether a sequence is as the models see it already, as nearly all are."""
    return bool(raw) and not raw.translate(None, _LETTERS_OF_ALPHABET)


def normalise_all(batch: Batch) -> Sequence[bytes] | None:
    """Return sequences as the models see them, if nothing is done to any but to take a stop away.

    Nearly all files hold nothing else, and it takes less than half as long as one by one.
    """
    sequences: Sequence[bytes] = batch.raws
    if not _are_normal(sequences):
        sequences = list(map(_without_stop, sequences))
        if not _are_normal(sequences):
            return None
    doubtful = find_doubtful(sequences)
    if any(look_at_letters(batch.names[i], sequences[i]) for i in doubtful):
        return None
    return sequences


def _are_normal(sequences: Sequence[bytes]) -> bool:
    return all(sequences) and _is_normal(b"".join(sequences))


def _without_stop(letters: bytes) -> bytes:
    return letters[:-1] if letters.endswith(STOPS) else letters


def normalise(record: Record) -> Normalised:
    """Return the sequence of a record as the models see it.

    Upper-cased, without gaps (`-`) and blanks, which are counted, and without one stop (`*` or
    `.`) at the end; letters outside the models' alphabet become X.

    Raises:
        RejectedSequence: nothing is left (`empty`), something is no letter
            (`invalid_character`), or the letters are those of something else
            (`not_a_sequence`).
    """
    raw = record.raw
    sequence = _without_stop(raw)
    if _is_normal(sequence):
        if find_doubtful([sequence]):
            _reject(look_at_letters(record.name, sequence))
        return Normalised(sequence, replaced=0, removed=0)
    _reject(look_at(record.name, record.body))
    letters = raw.upper().translate(None, delete=DELETED)
    sequence = _without_stop(letters)
    if not sequence:
        raise RejectedSequence(EMPTY, _why_empty(record))
    if not sequence.isalpha():
        place = next(i for i in range(len(sequence)) if not sequence[i : i + 1].isalpha())
        raise RejectedSequence(
            INVALID_CHARACTER,
            f"{character_at(sequence, place)!r} at residue {place + 1}"
            + ("; each chain needs a record of its own" if _joins_chains(sequence, place) else ""),
        )
    known = sequence.translate(None, delete=_LETTERS_OUTSIDE_ALPHABET)
    return Normalised(
        sequence.translate(_UNKNOWN_TO_X),
        replaced=len(sequence) - len(known),
        removed=len(raw) - len(letters),
    )


def _reject(look: Look | None) -> None:
    if look:
        raise RejectedSequence(NOT_A_SEQUENCE, f"looks like {look.what}", look.line)


def _why_empty(record: Record) -> str:
    title = record.description.removesuffix(b"*")
    if len(title) >= LEAST_SEQUENCE_IN_HEADER and title.isalpha() and title.isupper():
        return "no residues; the sequence seems to stand in the header: give it a line of its own"
    return "no residues"


def _joins_chains(sequence: bytes, place: int) -> bool:
    return chr(sequence[place]) in CHAIN_SEPARATORS and 0 < place < len(sequence) - 1


def character_at(text: bytes, place: int) -> str:
    """Return the character that begins at a byte, in UTF-8 or, if it is none, in Latin-1."""
    for end in range(place + 1, place + 5):
        try:
            return text[place:end].decode()
        except UnicodeDecodeError:
            continue
    return chr(text[place])


def read_fasta(paths: Sequence[Path]) -> Iterator[Record]:
    """Yield every record of FASTA files, in order.

    The files are plain or compressed, by gzip, bzip2, xz or zstd. Lines may end in any of the three
    ways; before the first record they may be comments. A file without records is a warning.

    Raises:
        InputError: a file is missing, unreadable, not text, not FASTA, or damaged, or none of
            them has a record.
    """
    for batch in read_batches(paths):
        yield from batch.records()


def read_batches(paths: Sequence[Path]) -> Iterator[Batch]:
    """Yield the same, some at a time: what is done for many at once takes half as long."""
    n_empty = 0
    for path in paths:
        log.info("reading %s", path)
        file = _FastaFile(path)
        yield from file.read()
        if not file.in_record:
            n_empty += 1
            if len(paths) > 1:
                log.warning("%s: the file is empty", path)
    if n_empty == len(paths):
        others = f", and so are {n_empty - 1} more" if n_empty > 1 else ""
        raise InputError(f"{paths[0]}: the file is empty{others}; expected FASTA records")


class _FastaFile:
    """One file, read once; its lines are checked and counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_lines = 0
        self.in_record = False

    def read(self) -> Iterator[Batch]:
        """Yield its records, some at a time."""
        try:
            with open(self.path, "rb", buffering=0) as raw:
                yield from self._parse(open_by_content(raw, str(self.path)))
        except DAMAGE as error:
            after = f", after line {self.n_lines}" if self.n_lines else ""
            raise InputError(
                f"{self.path}{after}: damaged or truncated ({error}); fetch or compress it again"
            ) from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _parse(self, stream: BinaryIO) -> Iterator[Batch]:
        """Split blocks of whole lines before every line that begins with `>`."""
        begun: list[bytes] = []
        begun_line = 0
        for lines in self._read_blocks(stream):
            rest, *records = _HEADERS.split(lines)
            if self.in_record:
                begun.append(rest)
            else:
                self._check_are_comments(rest)
            first_line = self.n_lines + rest.count(b"\n") + 1
            n_lines = self.n_lines + _count(NEWLINE, lines)
            if _count(HEADER, lines) > len(records):
                self._check_glued(rest if self.in_record else b"", records, first_line)
            if records:
                if not lines.isascii() or SEMICOLON in lines:
                    self._check_ids(records, first_line)
                blanks = any(blank in lines for blank in RARE_MARGINS)
                if self.in_record:
                    yield self._batch([b"".join(begun)], begun_line, blanks=True)
                self.in_record = True
                *whole, last = records
                yield self._batch(whole, first_line, blanks)
                begun = [last]
                begun_line = n_lines - last.count(b"\n") + 1
            self.n_lines = n_lines
        if self.in_record:
            yield self._batch([b"".join(begun)], begun_line, blanks=True)

    def _read_blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield whole lines, some at a time; however they end there, here they end in `\\n`.

        A file of carriage returns alone, which nothing has written for decades, comes whole.
        """
        while some := stream.read(BLOCK_BYTES):
            lines = some + stream.readline()
            if RETURN in lines:
                lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if NUL in lines:
                is_tar = not self.n_lines and b"ustar" in lines[:512]
                line = self.n_lines + lines.partition(b"\0")[0].count(b"\n") + 1
                raise self._error(TAR if is_tar else NOT_TEXT, line)
            yield lines if self.n_lines else lines.removeprefix(BOM)

    def _check_ids(self, records: Sequence[bytes], line: int) -> None:
        """Check that ids are text, and none of PIR; the first header is in this line."""
        for record in records:
            if _PIR.match(record):
                raise self._error(PIR, line)
            try:
                _split_title(record.partition(b"\n")[0])[0].decode()
            except UnicodeDecodeError as error:
                raise self._error(NOT_UTF_8, line) from error
            line += record.count(b"\n")

    def _check_glued(self, rest: bytes, records: Sequence[bytes], line: int) -> None:
        """Check that no header is behind residues; the first header is in this line."""
        line -= rest.count(b"\n")
        for body, lines in [(rest, rest), *((r.partition(b"\n")[2], r) for r in records)]:
            if glued := _GLUED.search(body):
                before = lines[: len(lines) - len(body) + glued.start()]
                raise self._error(GLUED, line + before.count(b"\n"))
            line += lines.count(b"\n")

    def _check_are_comments(self, lines: bytes) -> None:
        for number, line in enumerate(lines.split(b"\n"), start=self.n_lines + 1):
            if line.strip(MARGINS) and not line.startswith(COMMENTS):
                looks = next(
                    (f" (it looks like {what})" for s, what in LOOKS if line.startswith(s)), ""
                )
                problem = f"not FASTA{looks}; the first line with text must begin with '>'"
                raise self._error(problem, number)

    def _error(self, problem: str, line: int) -> InputError:
        return InputError(f"{self.path}, line {line}: {problem}")

    def _batch(self, texts: Sequence[bytes], line: int, blanks: bool) -> Batch:
        """Read records of the lines that follow a `>`; blanks may be around any of them.

        Args:
            line: of the first one's header.
            blanks: whether others than spaces may be.
        """
        parts = [text.partition(b"\n") for text in texts]
        if blanks:
            titles = [_split_title(header) for header, _, _ in parts]
        else:
            titles = [header.strip(b" ").partition(b" ") for header, _, _ in parts]
        bodies = [body for _, _, body in parts]
        return Batch(
            names=[title[0] for title in titles],
            bodies=bodies,
            descriptions=[title[-1] for title in titles],
            raws=[
                _join_lines(body) if blanks or SPACE in body else body.replace(b"\n", b"")
                for body in bodies
            ],
            path=self.path,
            line=line,
        )


def _count(byte: int, text: bytes) -> int:
    """Count a byte: where it is found often, numpy takes a tenth of the time of `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == byte))


def _join_lines(body: bytes) -> bytes:
    return b"".join(line.strip(MARGINS) for line in body.split(b"\n"))


def _split_title(header: bytes) -> tuple[bytes, bytes]:
    """Return id and description."""
    identifier, *description = _ID_ENDS.split(header.strip(b" \t"), 1)
    return identifier, b"".join(description)
