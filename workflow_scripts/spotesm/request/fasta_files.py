"""The FASTA files that a user's paths stand for: folders, patterns, pipes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from spotesm.base.durable import publish, replacing
from spotesm.base.failures import ConfigError, InputError
from spotesm.request.config import expand_path
from spotesm.sequences.compression import DAMAGE, SUFFIXES, open_by_content

FASTA_SUFFIXES = (
    *(".fasta", ".fa", ".faa", ".fas", ".fsa", ".fna", ".ffn", ".frn", ".mpfa", ".pep", ".aa"),
    ".seq",
)
TEXT_SUFFIX = ".txt"  # FASTA, or anything else: looked at
_FASTA_ENDINGS = tuple(s + c for s in FASTA_SUFFIXES for c in ("", *SUFFIXES))
_TEXT_ENDINGS = tuple(TEXT_SUFFIX + c for c in ("", *SUFFIXES))
FIRST_BYTES = 1 << 16
# What only the folder of a dataset's results has: its FASTA are made, not given.
RESULTS_HAVE = ("shards/split.json", "embeddings.h5", "contigs.json")
STDIN = "-"
READ_ONCE = ("/dev/stdin", "/dev/fd/", "/proc/")
FIRST_NAMES = 3


class Found(NamedTuple):
    """What lies where a path leads to.

    Attributes:
        files: the FASTA files, in sorted order.
        left_out: the other files, and folders of results.
    """

    files: list[str]
    left_out: list[str]

    def describe_left_out(self) -> str:
        """Say which files of folders are not read; nothing if all are."""
        if not self.left_out:
            return ""
        first = ", ".join(self.left_out[:FIRST_NAMES])
        others = len(self.left_out) - FIRST_NAMES
        more = f" and {others} more" if others > 0 else ""
        return f"left out, as no FASTA by name: {first}{more}; name a file itself to have it read"


def find_fasta(given: Sequence[str], dataset: str) -> list[str]:
    """Return the FASTA files that a dataset's paths name; folders and patterns give theirs sorted.

    Raises:
        ConfigError: a path names no file, or a file is named twice.
    """
    return search(given, dataset).files


def search(given: Sequence[str], dataset: str) -> Found:
    """Return the same, and what lies in the folders but is no FASTA by its name.

    Raises:
        ConfigError: as above.
    """
    where = f"datasets: {dataset}"
    files: list[str] = []
    left_out: list[str] = []
    for path in given:
        found, others, what = _search_one(path)
        if not found:
            raise ConfigError(f"config: {where}: {what}")
        files += [expand_path(file, where) for file in found]
        left_out += others
    seen: set[str] = set()
    for file in files:
        if file in seen:
            raise ConfigError(f"config: {where}: {file} is named twice; its records would be, too")
        seen.add(file)
    return Found(files, left_out)


def _search_one(path: str) -> tuple[list[str], list[str], str]:
    """Return FASTA files, what is left out, and what to say if there is no file."""
    if is_pipe(path):
        return [], [], f"{path}: is a pipe; write it to a file, or use spotesm embed - --name NAME"
    if os.path.isdir(path):
        files, left_out = search_folder(path)
        ends = ", ".join(FASTA_SUFFIXES[:3])
        return (
            files,
            left_out,
            f"{path}: no FASTA in this folder; its files must end in {ends}, ...",
        )
    if os.path.isfile(path):
        return [path], [], ""
    if os.path.exists(path) or not (matches := glob(path, recursive=True)):
        return [], [], f"no such file: {path}"
    return sorted(filter(os.path.isfile, matches)), [], f"{path}: matches no file"


def search_folder(folder: str) -> Found:
    """Search a folder, and those in it, for FASTA; what begins with a dot is none of ours."""
    files: list[str] = []
    left_out: list[str] = []
    visited: set[tuple[int, int]] = set()
    for above, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(above)
        mark = (stat.st_dev, stat.st_ino)
        if mark in visited:  # by a link
            folders.clear()
            continue
        visited.add(mark)
        if any(os.path.exists(os.path.join(above, name)) for name in RESULTS_HAVE):
            folders.clear()
            left_out.append(above)
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = str(Path(above, name))
            if name.startswith(".") or not os.path.isfile(path):
                continue
            (files if _is_fasta(path) else left_out).append(path)
    return Found(sorted(files), sorted(left_out))


def _is_fasta(path: str) -> bool:
    name = path.lower()
    return name.endswith(_FASTA_ENDINGS) or (name.endswith(_TEXT_ENDINGS) and _begins_so(path))


def _begins_so(path: str) -> bool:
    """Whether a file begins with a header and a line that is none."""
    try:
        with open(path, "rb", buffering=0) as raw:
            lines = open_by_content(raw, path).read(FIRST_BYTES).split(b"\n")
    except (OSError, InputError, *DAMAGE):
        return False
    first, second, *_ = [*filter(None, map(bytes.strip, lines)), b"", b""]
    return first.startswith(b">") and second[:1] not in (b"", b">")


# -- pipes -----------------------------------------------------------------------------------------


def is_pipe(path: str | os.PathLike) -> bool:
    """Whether a path can be read but once, by this process alone: `-`, `/dev/stdin`, `<(...)`."""
    text = os.fspath(path)
    if text == STDIN or text.startswith(READ_ONCE):  # even where they lead to a file
        return True
    return os.path.exists(text) and not os.path.isfile(text) and not os.path.isdir(text)


def spool(pipe: str | os.PathLike, folder: Path) -> Path:
    """Write what comes through a pipe to a file in a folder, which is named by its content.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    spooled = folder / "input.fasta"
    with replacing(spooled) as temporary, open(temporary, "wb") as file:
        for block in _read_pipe(os.fspath(pipe)):
            digest.update(block)
            file.write(block)
    kept = folder / f"input-{digest.hexdigest()}.fasta"
    publish(spooled, kept)
    return kept


def _read_pipe(pipe: str) -> Iterator[bytes]:
    try:
        with open(0 if pipe == STDIN else pipe, "rb", closefd=pipe != STDIN) as stream:
            while block := stream.read(FIRST_BYTES):
                yield block
    except OSError as error:
        raise InputError(f"{pipe}: cannot be read ({error.strerror or error})") from error
