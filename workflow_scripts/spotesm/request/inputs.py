"""The files that a run reads, known by content; how many shards suit them."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from spotesm.base.durable import read_json, write_json
from spotesm.base.failures import InputError
from spotesm.base.paths import DatasetPaths, split_of
from spotesm.base.text import count
from spotesm.sequences.compression import SUFFIXES

log = logging.getLogger(__name__)

MEMORY = Path(".snakemake/spotesm-inputs.json")
BYTES_OF_A_SHARD = 2 << 20  # at least, once there are several: some five thousand proteins
MOST_SHARDS = 512
MOST_TIMES_OF_SHARDS = 4  # as large, or as small, may an input become until it is split anew
COMPRESSION_RATIO = 2  # of gzipped proteins, about
BYTES_AT_ONCE = 1 << 20


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
        while left and (block := file.read(min(left, BYTES_AT_ONCE))):
            found.update(block)
            left -= len(block)
            last = block[-1:]
        appended = file.read(2)
    # Else the last record may have grown; of what is compressed, nobody knows.
    begins_record = (last == b"\n" and appended[:1] == b">") or appended[:2] == b"\n>"
    return begins_record and found.hexdigest() == digest


def _recall(memory: Path) -> dict[str, list]:
    """Return what was remembered; what is damaged is read again."""
    try:
        found = read_json(memory)
    except (OSError, ValueError):
        return {}
    return {path: fact for path, fact in found.items() if _is_fact(fact)}


def _is_fact(fact: object) -> bool:
    """Whether it is four numbers of `stat`, and a digest."""
    kinds = [type(value) for value in fact] if isinstance(fact, list) else []
    return kinds == [int, int, int, int, str]


@dataclass(frozen=True)
class Split:
    """Into how many shards a dataset is split.

    Attributes:
        shards: how many.
        chosen_for: the size of the input that the number was chosen for, in bytes.
        before: into how many it was split by an earlier run; 0 if by none.
    """

    shards: int
    chosen_for: int
    before: int = 0

    def tell(self) -> None:
        """Say so if it is another number than that of an earlier run."""
        if self.before not in (0, self.shards):
            log.warning(
                "now in %s, not %d as before: what is finished is found again, by its content",
                *(count(self.shards, "shard"), self.before),
            )


def choose_split(asked: int | str, fasta: Sequence[str], dataset: DatasetPaths) -> Split:
    """Return how many shards a dataset gets: as many as are asked for, or as suit the input.

    The number of an earlier run is kept until the input is many times larger, or smaller, than
    what it was chosen for: few shards leave GPUs idle, and what is finished is found again anyway.

    Args:
        asked: a number, or `auto`.
        fasta: the files of the dataset.
    """
    size, earlier = sum(map(_plain_bytes, fasta)), _earlier_split(dataset)
    if isinstance(asked, int):
        return Split(asked, size, earlier.shards if earlier else 0)
    if earlier is None:
        return Split(_shards_for(size), size)
    few, many = earlier.chosen_for / MOST_TIMES_OF_SHARDS, earlier.chosen_for * MOST_TIMES_OF_SHARDS
    if few <= size <= many:
        return replace(earlier, before=earlier.shards)
    return Split(_shards_for(size), size, earlier.shards)


def _shards_for(size: int) -> int:
    """Return a power of two: of few numbers, Snakemake needs few rules."""
    wanted = min(1 + size // BYTES_OF_A_SHARD, MOST_SHARDS)
    return 1 << wanted.bit_length() - 1


def _earlier_split(dataset: DatasetPaths) -> Split | None:
    """Return the split of an earlier run: as it was written down, or by what is left of it."""
    if note := dataset.read_split():
        return Split(note["shards"], note["chosen_for"])
    shards = dataset.shards
    return Split(split_of(shards[0]), sum(p.stat().st_size for p in shards)) if shards else None


def _plain_bytes(path: str) -> int:
    size = Path(path).stat().st_size
    return size * COMPRESSION_RATIO if path.endswith(SUFFIXES) else size
