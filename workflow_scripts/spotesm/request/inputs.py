"""The files that a run reads: found by name, known by content."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path

from spotesm.base.durable import write_json
from spotesm.base.failures import ConfigError, InputError
from spotesm.request.config import expand_path

log = logging.getLogger(__name__)

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".fna", ".ffn", ".frn", ".pep", ".aa", ".seq")
COMPRESSED_SUFFIXES = ("", ".gz", ".bz2", ".xz", ".zst")
MEMORY = Path(".snakemake/spotesm-inputs.json")
BYTES_OF_A_SHARD = 2 << 20  # some five thousand proteins
MOST_SHARDS = 512
COMPRESSION_RATIO = 2  # of gzipped proteins, about


def find_fasta(given: Sequence[str], dataset: str) -> list[str]:
    """Return the FASTA files that a dataset's paths name; folders and patterns give theirs sorted.

    Raises:
        ConfigError: a path names no file.
    """
    where = f"datasets: {dataset}"
    files: list[str] = []
    for path in given:
        if Path(path).is_dir():
            found = sorted(str(f) for f in Path(path).iterdir() if f.is_file() and is_fasta_name(f))
            what = f"{path}: no FASTA in this folder; its files must end in .fasta, .fa, .faa, ..."
        elif Path(path).exists() or not glob(path):
            found, what = [path] if Path(path).is_file() else [], f"no such file: {path}"
        else:
            found = sorted(filter(lambda f: Path(f).is_file(), glob(path)))
            what = f"{path}: matches no file"
        if not found:
            raise ConfigError(f"config: {where}: {what}")
        files += [expand_path(file, where) for file in found]
    repeated = next((file for file in files if files.count(file) > 1), None)
    if repeated:
        raise ConfigError(f"config: {where}: {repeated} is named twice; its records would be, too")
    return files


def is_fasta_name(path: Path) -> bool:
    """Whether a file in a folder is taken for FASTA, by its name."""
    name = path.name.lower()
    endings = tuple(s + c for s in FASTA_SUFFIXES for c in COMPRESSED_SUFFIXES)
    return name.endswith(endings) and not name.startswith(".")


def know_by_content(paths: Iterable[str], memory: Path = MEMORY) -> list[str]:
    """Return `SIZE BLAKE2B` of each file, so that a change of content is a change of this.

    A file whose stat is the one remembered in `memory` is not read again.

    Raises:
        InputError: one cannot be read.
    """
    remembered = _recall(memory)
    known = {}
    for path in paths:
        try:
            stat = Path(path).stat()
            mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            before = remembered.get(path)
            if before and before[:-1] == mark:
                known[path] = before
                continue
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        known[path] = [*mark, digest.hexdigest()]
    if any(remembered.get(path) != fact for path, fact in known.items()):
        with suppress(OSError):  # such as by several runs at once; then files are read once more
            write_json(memory, {**remembered, **known})
    return [f"{fact[0]} {fact[-1]}" for fact in known.values()]


def is_grown(before: Sequence[str], files: Sequence[str], contents: Sequence[str]) -> bool:
    """Whether files begin with all that earlier ones had, and have further records behind it.

    Known from their bytes alone; what is compressed anew, or in another order, is not known so.

    Args:
        before: `SIZE DIGEST` of each earlier file.
        contents: the same of each of `files`.
    """
    left = list(zip(files, contents, strict=True))
    for content in before:
        match = next((pair for pair in left if pair[1] == content), None) or next(
            (pair for pair in left if _begins_with(pair[0], content)), None
        )
        if match is None:
            return False
        left.remove(match)
    return True


def _begins_with(path: str, content: str) -> bool:
    """Whether a file is the one of `SIZE DIGEST` with records appended."""
    size, digest = content.split()
    if int(size) >= Path(path).stat().st_size:
        return False
    found, left = hashlib.blake2b(digest_size=16), int(size)
    with open(path, "rb") as file:
        last = b""
        while left and (block := file.read(min(left, 1 << 20))):
            found.update(block)
            left -= len(block)
            last = block[-1:]
        appended = file.read(1 << 12)
    # Else the last record may have grown; of what is compressed, nobody knows.
    begins_record = (last == b"\n" and appended[:1] == b">") or appended[:2] == b"\n>"
    return begins_record and found.hexdigest() == digest


def _recall(memory: Path) -> dict[str, list]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def choose_shards(datasets: dict[str, list[str]], results: Path) -> int:
    """Return how many shards suit the input; those of an earlier split are kept.

    A later growth of the input must not throw work away: what shards hold depends on how many
    there are.

    Args:
        datasets: FASTA files by dataset.
    """
    splits = [max(_earlier_splits(results / name), default=0) for name in datasets]
    if any(splits):
        return max(splits)
    largest = max(sum(map(_plain_bytes, files)) for files in datasets.values())
    return min(1 + largest // BYTES_OF_A_SHARD, MOST_SHARDS)


def _earlier_splits(folder: Path) -> list[int]:
    return [int(p.stem.partition("-of-")[2]) for p in folder.glob("shards/1-of-*.fasta")]


def _plain_bytes(path: str) -> int:
    size = Path(path).stat().st_size
    return size * COMPRESSION_RATIO if path.endswith(COMPRESSED_SUFFIXES[1:]) else size
