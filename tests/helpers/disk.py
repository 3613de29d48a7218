"""A disk that is watched: what is asked of it, what a power cut leaves, what if it fails once.

Only what Python asks is seen; what HDF5 and torch write by themselves is found in the files.
"""

import contextlib
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "fsync", "replace", "rename", "link", "mkdir")
Image = dict[str, bytes]  # the files of a folder, by name; folders end in a slash and are empty


class Disk:
    """What is asked of the files below a folder.

    Attributes:
        events: (call, name) in order; a directory's name is `.` or ends in a slash, and of
            replace, rename and link the name is the new one.
        before: is called with each event, before it happens; may raise.
        after: is called with each event that happened.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.events: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda call, name: None
        self.after: Callable[[str, str], None] = lambda call, name: None
        for call in CALLS:
            monkeypatch.setattr(os, call, self._watch(call, getattr(os, call)))
        opened = self._watch_open(io.open)
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr("builtins.open", opened)

    def name_of(self, path: object) -> str | None:
        """The name of what lies in the folder; None for all else."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not isinstance(path, str | os.PathLike):
            return None
        place = Path(path).absolute()
        if not place.is_relative_to(self.folder):
            return None
        name = str(place.relative_to(self.folder))
        return f"{name}/" if place.is_dir() and name != "." else name

    @contextlib.contextmanager
    def event(self, call: str, name: str | None) -> Iterator[None]:
        if name is None:
            yield
            return
        self.before(call, name)
        yield
        self.events.append((call, name))
        self.after(call, name)

    def _watch(self, call: str, original: Callable) -> Callable:
        place = 1 if call in ("replace", "rename", "link") else 0

        def watched(*arguments: Any, **options: Any) -> object:
            with self.event(call, self.name_of(arguments[place])):
                return original(*arguments, **options)

        return watched

    def _watch_open(self, original: Callable) -> Callable:
        def watched(file: object, mode: str = "r", *arguments: Any, **options: Any) -> object:
            name = self.name_of(file)
            with self.event("open", name):
                opened = original(file, mode, *arguments, **options)
            writes = name is not None and set(mode) & set("wax+")
            return _Watched(opened, self, name) if writes else opened

        return watched


class _Watched:
    """An open file whose writes are events."""

    def __init__(self, file: io.IOBase, disk: Disk, name: str) -> None:
        self._file, self._disk, self._name = file, disk, name

    def write(self, data: object) -> int:
        with self._disk.event("write", self._name):
            return self._file.write(data)

    def __enter__(self) -> "_Watched":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Iterator:
        return iter(self._file)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def images_of_a_power_cut(disk: Disk) -> Callable[[], tuple[list[Image], Image]]:
    """Watch from now on; the function returns what may be on the disk after a cut at any moment.

    What was flushed is there: the bytes of a file at its last fsync, the names in a directory at
    its own. Of all else, two extremes: names since then are lost, or they are there; bytes that
    were never flushed are garbage or nothing. The second value is the worst after the last moment.
    """
    folder = disk.folder
    bytes_of: dict[int, bytes] = {}  # by inode
    names: dict[int, dict[str, int]] = {}  # by the inode of their directory, which may be renamed
    named: set[str] = set()  # directories
    images: list[Image] = []

    def flushed(directory: str) -> dict[str, int]:
        return names.get((folder / directory).stat().st_ino, {}) if is_named(directory) else {}

    def look(directory: str) -> dict[str, int]:
        entries = os.scandir(folder / directory)
        return {entry.name: entry.inode() for entry in entries if entry.is_file()}

    def is_named(directory: str) -> bool:
        """Whether the name of a directory, and of all above it, was flushed."""
        parts = Path(directory).parts
        return all("/".join(parts[: i + 1]) in named for i in range(len(parts)))

    def directories() -> list[str]:
        found = (Path(root).relative_to(folder) for root, *_ in os.walk(folder))
        return [str(directory) for directory in found]

    def flush(path: str) -> None:
        place = folder / path
        if place.is_dir():
            names[place.stat().st_ino] = look(path)
            named.update(d for d in directories() if str(Path(d).parent) == str(Path(path)))
        else:
            bytes_of[place.stat().st_ino] = place.read_bytes()

    def cut() -> None:
        for entries_of in (look, flushed):
            for lost in (lambda size: b"", lambda size: b"\xa5" * size):
                images.append(
                    {
                        os.path.normpath(f"{directory}/{name}"): bytes_of[inode]
                        if inode in bytes_of
                        else lost(100)
                        for directory in directories()
                        for name, inode in entries_of(directory).items()
                    }
                )

    for directory in directories():
        named.add(directory)
        names[(folder / directory).stat().st_ino] = look(directory)
        for name in look(directory):
            flush(os.path.normpath(f"{directory}/{name}"))

    def after(call: str, name: str) -> None:
        if call == "fsync":
            flush(name)
        cut()

    disk.before = lambda call, name: cut()
    disk.after = after

    def end() -> tuple[list[Image], Image]:
        cut()
        disk.before = disk.after = lambda call, name: None
        different = {tuple(sorted(image.items())) for image in images}
        return list(map(dict, different)), images[-1]

    return end


def lay_out(image: Image, folder: Path) -> None:
    """Make a folder of an image."""
    for name, content in image.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def fail_at(disk: Disk, n: int, number: int = errno.EIO) -> Callable[[], bool]:
    """Let the n-th event, from 1, fail; the function tells whether it came to that."""
    calls = itertools.count(1)
    failed = False

    def before(call: str, name: str) -> None:
        nonlocal failed
        if next(calls) == n:
            failed = True
            raise OSError(number, os.strerror(number), name)

    disk.before = before
    return lambda: failed
