"""What our HDF5 files call themselves, and how a merged one is told from everything else."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spotesm.base.failures import InputError, UserError, explain_host_fault

FORMAT = "spotesm"
FORMAT_VERSION = 1  # another one only where an older reader would misread the file
EXPORT_FORMAT = "spotesm-export"  # of our exports to HDF5, lest one be taken for a merged file

# What a merged file has of every record, whatever was computed, and its shape behind N.
RECORD_SHAPES = {"sequence_ids": (), "lengths": (), "digests": (16,), "windows": ()}

# What reading a damaged file raises, from wherever in HDF5 and h5py.
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LOCKING = re.compile(r"\block(ing)?\b")
_READING = re.compile(r"['\"]?(Can't|Unable to) (synchronously )?(read|open|get)\b")


def open_hdf5(path: Path, **options: Any) -> h5py.File:
    """Open an HDF5 file for reading, whoever has it open already.

    HDF5 refuses a file that the same process has opened with another kind of locking. h5py's own
    default comes first, so that those who open it by h5py later find it alike. The others are for
    who has not opened it so, for file systems without locks, and where another process has locked
    it: files of ours are replaced, never changed.

    Args:
        options: of `h5py.File`.

    Raises:
        OSError: it cannot be read; the cause is a lock, where one was in the way.
    """
    refused = None
    for locking in (None, False, True):
        try:
            return h5py.File(path, "r", locking=locking, **options)
        except OSError as error:
            if not _LOCKING.search(str(error)):
                raise error from refused
            refused = refused or error
    raise refused


def open_checked(path: Path) -> h5py.File:
    """Open a dataset's HDF5 file.

    Raises:
        InputError: it cannot be read, is none of spotESM's, or of a format we do not know.
    """
    try:
        problem = _problem_before_opening(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        raise InputError(f"{path}: {problem}; name an embeddings.h5")
    try:
        file = open_hdf5(path)
    except (OSError, RuntimeError) as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise InputError(
                f"{path}: another process is writing it; wait for that, or end it"
            ) from error
        raise InputError(
            f"{path}: cannot be read as HDF5, it is truncated or damaged ({error}); name an "
            "embeddings.h5"
        ) from error
    try:
        problem = _problem_inside(file)
        if not problem:
            read_structure(file)
    except (*DAMAGE, AttributeError) as error:  # where a dataset has become something else
        problem = f"is damaged ({error}); name an embeddings.h5"
    if problem:
        file.close()
        raise InputError(f"{path}: {problem}")
    return file


def read_structure(file: h5py.File) -> None:
    """Read all that a file says of itself, so that damage to it shows before anything is done.

    Raises:
        *DAMAGE: it is damaged.
    """

    def look(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Datatype):
            raise ValueError(f"{name} is no dataset")
        if isinstance(item, h5py.Dataset):
            _ = item.shape, item.dtype, item.id.get_offset()
        dict(item.attrs)

    look("/", file)
    file.visititems(look)


def refuse_foreign(path: Path) -> None:
    """Check that a file, if it is HDF5 and whole enough to say so, is a dataset's.

    Raises:
        InputError: it is something else, or of another version's format; or nobody can tell, for
            the disk, the permissions or a lock.
    """
    try:
        with open_hdf5(path) as file:
            version = file.attrs.get("format_version")
            is_other = isinstance(version, np.integer) and version != FORMAT_VERSION
            is_ours = file.attrs.get("format") == FORMAT and not is_other
            problem = None if is_ours else _problem_inside(file)
    except DAMAGE as error:
        if fault := explain_host_fault(error):
            raise InputError(f"{path}: {fault.removeprefix(f'{path}: ')}") from error
        return
    if problem:
        raise InputError(f"{path}: {problem}")


def auto_of(path: Path | None) -> str | None:
    """Return what `precision: auto` was for a merged file; None if it was not asked for.

    Also where there is no such file, or a damaged one.
    """
    try:
        with open_hdf5(path or Path()) as file:
            asked = json.loads(file.attrs["config"])["precision"]
            return str(file.attrs["precision"]) if asked == "auto" else None
    except DAMAGE:
        return None


def _problem_before_opening(path: Path) -> str | None:
    if path.is_dir():
        return "is a folder"
    if not path.exists():
        return "no such file"
    if not path.is_file():
        return "is no regular file"
    with open(path, "rb") as file:
        start = file.read(len(_SIGNATURE))
    if not start:
        return "is empty"
    return None if start == _SIGNATURE else "cannot be read as HDF5, it is something else"


def _problem_inside(file: h5py.File) -> str | None:
    """Return why a file is not a whole merged one."""
    found, version = file.attrs.get("format"), file.attrs.get("format_version")
    if isinstance(found, str) and found == EXPORT_FORMAT:
        return "is an export, one dataset a protein; name the embeddings.h5 it was made from"
    if not isinstance(found, str) or found != FORMAT:
        if "records" in file and "fingerprint" in file.attrs:
            return "is the file of one shard; name the embeddings.h5 of its dataset"
        return f"not a file of spotESM's format {FORMAT_VERSION}; name an embeddings.h5"
    if not isinstance(version, np.integer) or version != FORMAT_VERSION:
        return (
            f"not a file of spotESM's format {FORMAT_VERSION}, but of {version}; read it by the "
            "version of spotESM that wrote it, or a newer one"
        )
    n = file["sequence_ids"].shape[0] if "sequence_ids" in file else None
    for name, shape in RECORD_SHAPES.items():
        if n is None or (name in file and file[name].shape != (n, *shape)):
            return f"has no {name} of each record: damaged, or an export; name an embeddings.h5"
    return None


def is_damage(error: OSError | RuntimeError | KeyError) -> bool:
    """Whether an exception is HDF5's complaint on what it reads, and not a fault of the disk."""
    return (
        not isinstance(error, UserError)
        and _READING.match(str(error)) is not None
        and explain_host_fault(error) is None
    )
