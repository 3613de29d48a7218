"""Files that are either whole or absent, whatever kills the process that writes them."""

import errno
import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from spotesm.base.failures import mount_of, writing

log = logging.getLogger(__name__)

TEMPORARY = ".tmp"
# What file systems say that cannot flush a folder, or keep no modes: mounts of object stores, of
# Windows' drives, some network file systems. There, too, a rename puts the whole file in place.
_NOT_SUPPORTED = (
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES),
    *(errno.EBADF, errno.EISDIR, errno.ENOTTY),
)


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut, where the file system can."""
    with writing(directory):
        try:
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _warn_of_power_cuts(mount_of(directory), error.strerror)


@cache
def _warn_of_power_cuts(mount: Path, reason: str) -> None:
    if log.hasHandlers():  # jobs have, and a screen shows what they all warn of once
        log.warning(
            "the file system %s cannot flush folders (%s): after a power cut there, the newest "
            "files may be missing, and are made again",
            mount,
            reason,
        )


def follow_umask(target: int | Path, mode: int) -> None:
    """Give an open file, or a path, the mode that the user's umask leaves of one.

    What was made private by its maker is no different from other files then. A file system without
    modes has its own way with them.
    """
    try:
        os.chmod(target, mode & ~read_umask())
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def make_directory(directory: Path) -> None:
    """Make a directory, and what is missing above it, so that they survive a power cut."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def read_umask() -> int:
    """Return the bits of a mode that new files shall not have."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def publish(temporary: Path, path: Path) -> None:
    """Flush `temporary` to disk and give it its final name; both lie in one directory."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, and move it there if the block succeeds.

    Temporary files that a killed attempt left for the same path are removed first. Should
    such an attempt still be alive, its own rename then fails: the newest writer wins, and
    two writers never mix.
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the same for many, in one look at each folder."""
    for folder in {path.parent for path in paths}:
        make_directory(folder)
        _remove_leftovers(folder, {path.name for path in paths if path.parent == folder})
    with ExitStack() as stack:
        yield [stack.enter_context(_replacing(path)) for path in paths]


def _remove_leftovers(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files of these names."""
    for leftover in os.listdir(folder):
        name, _, suffix = leftover.rpartition(".")
        if f".{suffix}" == TEMPORARY and name[:1] == "." and name[1:].rpartition(".")[0] in names:
            (folder / leftover).unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with writing(path, temporary):
            try:
                follow_umask(descriptor, 0o666)  # mkstemp makes private files
            finally:
                os.close(descriptor)
            yield temporary
            publish(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as JSON, durably."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read an object that `write_json` wrote.

    Raises:
        ValueError: it is damaged, or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return content
