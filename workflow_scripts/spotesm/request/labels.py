"""The TSV of labels that a user gives: read strictly, before anything is computed."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spotesm.base.failures import InputError

LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines() would split at what may be in a label, too


@dataclass(frozen=True)
class GivenLabels:
    """What a TSV says.

    Attributes:
        path: the file.
        header: of its first column.
        title: what the labels are: the header of the second column.
        of: label by id or accession, empty where a line has none.
        repeated: ids with several lines, of which the first counts.
    """

    path: Path
    header: str
    title: str
    of: dict[str, str]
    repeated: list[str]


def read_labels(path: Path) -> GivenLabels:
    """Read a TSV of id and label, with a header line. Quotes are text; blank lines are skipped.

    Raises:
        InputError: it cannot be read, is not UTF-8, or a line has not two columns.
    """
    lines = _read_columns(path)
    _, (header, title) = next(lines, (0, ("", "")))
    of: dict[str, str] = {}
    repeated: dict[str, None] = {}
    for number, (identifier, label) in lines:
        if not identifier:
            raise InputError(f"{path}, line {number}: has no id; mend report: labels")
        if identifier in of:
            repeated[identifier] = None
        of.setdefault(identifier, label)
    if not of:
        raise InputError(f"{path}: holds no labels; give a header, then lines of id and label")
    return GivenLabels(path, header, title or "label", of, list(repeated))


def _read_columns(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and columns of each line that is not blank."""
    for number, line in enumerate(LINE_END.split(_read_text(path)), start=1):
        if not line.strip():
            continue
        columns = [column.strip(" ") for column in line.split("\t")]
        while len(columns) > 2 and not columns[-1]:  # as spreadsheets leave them
            columns.pop()
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {number}: columns, separated by tabs, must be two: id and label; "
                f"here are {len(columns)}"
            )
        yield number, columns


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); mend report: labels"
        ) from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = len(LINE_END.split(content[: error.start].decode("utf-8")))
        raise InputError(f"{path}, line {number}: not UTF-8; save it as text in UTF-8") from error
