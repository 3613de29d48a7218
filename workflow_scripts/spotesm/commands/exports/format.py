"""A format of `spotesm export`: what differs between them, a row each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from spotesm.commands.exports.records import Records
from spotesm.request.outputs import Output

LONGEST_NAME = 200
SAFE_IN_NAMES = "|:=,+@ "


def any_output(_: Output) -> bool:
    """Every output."""
    return True


def rows(output: Output) -> bool:
    """One row a record."""
    return not output.ragged


def vectors(output: Output) -> bool:
    """Of the model's dimensions: a record's, or its residues'."""
    return output.per_layer


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: what is typed.
        about: one line of the help.
        write: writes records to a path.
        takes: which outputs have a place in it.
        all_keys: whether all outputs are written unless one is named.
        place: the name under which the record of an id lies, where each must have its own.
        is_folder: whether the path is that of a folder.
        needs_fasta: whether it holds sequences, which an embeddings.h5 does not.
        has_ids: whether it calls records by their ids.
    """

    name: str
    about: str
    write: Callable[[Records, Path], None]
    takes: Callable[[Output], bool]
    all_keys: bool = False
    place: Callable[[str], str] | None = None
    is_folder: bool = False
    needs_fasta: bool = False
    has_ids: bool = True


def safe_name(identifier: str) -> str:
    """Return a name for a file or a dataset: the id, odd characters percent-encoded.

    One that would be too long is cut, and ends with a digest of all of it.
    """
    name = quote(identifier, safe=SAFE_IN_NAMES)
    if not name.strip("."):  # `.` and `..` are folders
        name = name.replace(".", "%2E")
    if len(name) <= LONGEST_NAME:
        return name or "%"
    digest = hashlib.blake2b(identifier.encode(), digest_size=16).hexdigest()
    return f"{name[: LONGEST_NAME - len(digest) - 1]}~{digest}"
