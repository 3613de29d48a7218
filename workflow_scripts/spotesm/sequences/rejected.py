"""rejected.tsv: the records that get no row, and why; written, read, held against the limit."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from spotesm.base.durable import publish, replacing
from spotesm.base.failures import InputError, TooManyRejectedError
from spotesm.sequences.reasons import Reason

TRANSLATE, SPLIT, EMBED = "translate", "split", "embed"
MOST_CHARACTERS = 1000  # of an id, so that every reader of TSV files takes the line
FIRST = 3
MOST_CHARACTERS_SAID = 40


class Rejected(NamedTuple):
    """One line; the file's columns.

    Attributes:
        ordinal: place in the input, from 0: of a record, or at the stage `translate` of a contig.
        id: its id, cut if it is very long.
        stage: which step rejected it.
        reason, detail: why: a keyword and a phrase.
    """

    ordinal: int
    id: str
    stage: str
    reason: str
    detail: str


class RejectedWriter:
    """Writes lines and counts them."""

    def __init__(self, file: io.TextIOBase, temporary: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._first: list[Rejected] = []
        self._file = file
        self._temporary = temporary
        self._lines = csv.writer(file, delimiter="\t", lineterminator="\n")
        self._lines.writerow(Rejected._fields)

    def add(self, ordinal: int, identifier: str, stage: str, reason: Reason) -> None:
        """Write a line."""
        shortened = shorten(identifier, MOST_CHARACTERS)
        detail = shorten(reason.detail, MOST_CHARACTERS)
        line = Rejected(ordinal, shortened, stage, reason.keyword, detail)
        self._lines.writerow(line)
        self.reasons[reason.keyword] += 1
        if len(self._first) < FIRST:
            self._first.append(line)

    def pass_on(self, line: Rejected) -> None:
        """Write a line that an earlier step has held against the limit."""
        self._lines.writerow(line)

    def check(
        self, n: int, max_rejected: float, kept: Path, advice: str, what: str = "records"
    ) -> None:
        """Check that no more than a fraction of all was rejected.

        Args:
            n: how many there were: of `what`, such as `records`.
            kept: where the lines are put if there are too many.
            advice: what to do then.

        Raises:
            TooManyRejectedError: there are; names `kept` and the first ones.
        """
        total = self.reasons.total()
        if total <= max_rejected * n:
            return
        self._file.flush()
        publish(self._temporary, kept)
        tally = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        first = "; ".join(
            f"{line.ordinal} {shorten(line.id, MOST_CHARACTERS_SAID)!r} "
            f"({line.reason}: {line.detail})"
            for line in self._first
        )
        raise TooManyRejectedError(
            f"{total} of {n} {what} were rejected ({tally}), more than max_rejected: "
            f"{max_rejected:g} allows. {kept} lists them; the first: {first}. {advice}"
        )


@contextmanager
def writing_rejected(path: Path) -> Iterator[RejectedWriter]:
    """Yield a writer to a temporary file, which gets its name if the block succeeds."""
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        yield RejectedWriter(file, temporary)
        file.flush()


def read_rejected(path: Path) -> Iterator[Rejected]:
    """Yield the lines of a file that `RejectedWriter` wrote, in this version or an earlier one.

    Raises:
        InputError: it is something else.
    """
    csv.field_size_limit(sys.maxsize)  # earlier ones did not bound the ids
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter="\t")
            if tuple(next(lines, ())) != Rejected._fields:
                raise InputError(
                    f"{path}: has not the columns {', '.join(Rejected._fields)}; name the "
                    "rejected.tsv of the dataset"
                )
            for line in lines:
                where = f"{path}, line {lines.line_num}"
                if len(line) != len(Rejected._fields):
                    raise InputError(f"{where}: has {len(line)} columns; merge the dataset again")
                ordinal, *others = line
                if not (ordinal.isascii() and ordinal.isdecimal() and len(ordinal) < 19):
                    raise InputError(f"{where}: {shorten(ordinal, 40)!r} is no ordinal; mend it")
                yield Rejected(int(ordinal), *others)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no TSV of rejected records ({error})") from error


def shorten(text: str, most: int) -> str:
    """Return a text of at most `most` characters, and three dots if it was longer."""
    return text if len(text) <= most else f"{text[:most]}..."
