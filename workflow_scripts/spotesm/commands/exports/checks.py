"""What must hold before an export writes anything."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from spotesm.base.failures import InputError
from spotesm.commands.exports.format import Format
from spotesm.hdf5.format import open_checked
from spotesm.merged.ids import TextIndex
from spotesm.merged.reader import Embeddings


def check_output(sources: Sequence[Path], output: Path, format: Format) -> None:
    """Check that an export can be written, and replaces neither what it is made from nor another.

    Raises:
        InputError: it cannot, or would; nothing has been written.
    """
    try:
        problem = _find_problem(sources, output, format.is_folder)
    except OSError as error:
        problem = f"cannot be written ({error.strerror}); name another place"
    if problem:
        raise InputError(f"{output}: {problem}")


def _find_problem(sources: Sequence[Path], output: Path, is_folder: bool) -> str | None:
    if not output.exists():
        if output.is_symlink():
            return "is a link that leads nowhere; name another place"
    elif same := [source for source in sources if source.exists() and output.samefile(source)]:
        return f"is {same[0]} itself, which would be lost; name another file"
    elif is_folder and not output.is_dir():
        return "is a file, but this format makes a folder of files; name a new folder"
    elif not is_folder and output.is_dir():
        return "is a folder, but this format makes a file; name one in it"
    elif not is_folder and not output.is_file():
        return "is no regular file; name another"
    elif not is_folder and _is_merged(output):
        return "is the embeddings.h5 of a run, which would be lost; name another file"
    elif not os.access(output, os.W_OK):
        return "may not be written; mend its permissions, or name another place"
    folder = _folder_of(output)
    if not folder.is_dir():
        return f"the folder {folder} is not there; make it first"
    with NamedTemporaryFile(prefix=f".{output.name}.", suffix=".tmp", dir=folder):
        return None


def _is_merged(path: Path) -> bool:
    try:
        open_checked(path).close()
    except InputError:
        return False
    return True


def _folder_of(output: Path) -> Path:
    """Return the folder that is written into, at first."""
    return output if output.is_dir() else output.parent


def check_places(
    embeddings: Embeddings, output: Path, format: Format, name: Callable[[str], str]
) -> None:
    """Check that each record has a place of its own in a format that has one for each name.

    Args:
        name: what a record of an id is called.

    Raises:
        InputError: two have one, also where the file system takes `A` and `a` for the same.
    """
    if format.place is None:
        return
    same = format.is_folder and ignores_case(_folder_of(output))
    place = _place_of(name, format.place, same)
    index = TextIndex.of(map(place, embeddings.iterate_ids()))
    ids = embeddings.file["sequence_ids"].asstr()
    for twin in np.flatnonzero(np.diff(index.hashes) == 0):
        first, second = (ids[row] for row in index.rows[twin : twin + 2])
        if first == second:
            raise InputError(
                f"{embeddings.path}: several records have the id {first!r}, but {format.name} "
                "has one place for each; use npz or parquet"
            )
        if place(first) == place(second):
            raise InputError(
                f"{embeddings.path}: the ids {first!r} and {second!r} would have one place in "
                f"{output}; use h5, npz or parquet"
            )


def ignores_case(folder: Path) -> bool:
    """Whether a folder's file system takes names that differ in case alone for the same."""
    with NamedTemporaryFile(prefix=".spotesm-", dir=folder) as file:
        return (folder / Path(file.name).name.swapcase()).exists()


def _place_of(
    name: Callable[[str], str], place: Callable[[str], str], ignores_case: bool
) -> Callable[[str], str]:
    if ignores_case:
        return lambda identifier: place(name(identifier)).casefold()
    return lambda identifier: place(name(identifier))
