"""Files that are either whole or absent, whatever kills the process that writes them."""

import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spotesm.base.failures import writing


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    make_directory(path.parent)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    # mkstemp makes private files; results should follow the user's umask like any other file.
    os.fchmod(descriptor, 0o666 & ~read_umask())
    os.close(descriptor)
    try:
        with writing(path, temporary):
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
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
