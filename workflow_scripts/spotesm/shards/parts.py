"""The form of what a shard's checkpoint directory keeps of finished sequences.

part-00001.<digest>.pt  digests and outputs; the name carries the blake2b-128 of the bytes
finished.<digest>.h5    a shard's whole file, named likewise
"""

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from spotesm.base.classification import classify
from spotesm.base.failures import OUT_OF_MEMORY
from spotesm.request.results import Ragged, Results, Unusable
from spotesm.sequences.digests import as_bytes, from_bytes
from spotesm.sequences.reasons import Device, Reason
from spotesm.shards.shard_file import ShardFile


def part_paths(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order in which they were written."""
    return sorted(folder.glob("part-[0-9]*.*.pt"), key=part_number)


class Part:
    """A part, open to be read: a row is a sequence.

    Mapped, not read: residues of many sequences need not be in memory together.

    Attributes:
        settings: what determined its numbers.

    Raises:
        Unusable: it is damaged, or of other settings or another format.
    """

    def __init__(self, path: Path, settings: dict) -> None:
        self.settings = settings
        check_digest(path)
        try:
            part = torch.load(str(path), weights_only=True, mmap=True)
            bound, self._batches = part["fingerprint"], list(map(_unpack, part["batches"]))
        except Exception as error:  # on foreign bytes torch's reader raises nearly anything
            if isinstance(error, OSError) or classify(error) == OUT_OF_MEMORY:
                raise  # the part may be whole
            raise Unusable("is of another format") from error
        if bound != digest_settings(settings):
            raise Unusable("belongs to other settings")

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._batches = []

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST it has, ascending, and a row of each, (j,)."""
        own = np.concatenate([from_bytes(b""), *(batch.digests for batch in self._batches)])
        _, which, rows = np.intersect1d(digests, own, return_indices=True)
        order = np.argsort(which)
        return which[order], rows[order]

    def read(self, rows: np.ndarray, keys: Container[str]) -> Iterator[Results]:
        """Yield what it holds of ascending rows (k,) under some keys, batch by batch."""
        start = 0
        for batch in self._batches:
            end = start + len(batch.digests)
            own = rows[(rows >= start) & (rows < end)] - start
            if len(own):
                yield batch.only(keys).take(own)
            start = end

    def read_all(self) -> Iterator[Results]:
        """Yield all that it holds, batch by batch."""
        yield from self._batches


class FinishedFile(ShardFile):
    """A shard's file under its second name, which carries the digest of its bytes.

    Raises:
        Unusable: as `ShardFile`; when it is read, it is damaged.
    """

    def read(self, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what it holds, as `ShardFile.read` does, if all its bytes are as they were."""
        check_digest(self.path)
        yield from super().read(rows, keys)


def pack(results: Results) -> dict:
    """Return what of a batch goes into a part: tensors, text and containers alone."""
    return {
        "digests": torch.from_numpy(as_bytes(results.digests).copy()),
        "reasons": [reason and astuple(reason) for reason in results.reasons],
        "windows": torch.from_numpy(results.windows),
        "rows": {key: torch.from_numpy(rows) for key, rows in results.rows.items()},
        "ragged": {
            key: {"values": torch.from_numpy(r.values), "offsets": torch.from_numpy(r.offsets)}
            for key, r in results.ragged.items()
        },
    }


def _unpack(batch: dict) -> Results:
    """Return what `pack` was given.

    Raises:
        ValueError: it does not hold as much of everything; other errors if it is no such batch.
    """
    results = Results(
        from_bytes(batch["digests"].numpy()),
        [_reason(stored) for stored in batch["reasons"]],
        batch["windows"].numpy(),
        {key: rows.numpy() for key, rows in batch["rows"].items()},
        {
            key: Ragged(ragged["values"].numpy(), ragged["offsets"].numpy())
            for key, ragged in batch["ragged"].items()
        },
    )
    ragged = list(results.ragged.values())
    integers = [results.windows, *(one.offsets for one in ragged)]
    of_sequences = [results.reasons, results.windows, *results.rows.values()]
    if (
        {len(each) for each in (*of_sequences, *(one.sizes for one in ragged))}
        != {len(results.digests)}
        or any(numbers.dtype.kind != "i" for numbers in integers)
        or any((one.offsets[0], one.offsets[-1]) != (0, len(one.values)) for one in ragged)
        or any((one.sizes < 0).any() for one in ragged)
    ):
        raise ValueError("a batch contradicts itself")
    return results


def _reason(stored: tuple | None) -> Reason | None:
    if not stored:
        return None
    keyword, detail, device = stored
    return Reason(keyword, detail, Device(*device) if device else None)


def _new_digest() -> "hashlib._Hash":
    return hashlib.blake2b(digest_size=16)


def digest_file(path: Path) -> str:
    """Return the blake2b-128 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _new_digest).hexdigest()


def check_digest(path: Path) -> None:
    """Check that a file still has the bytes whose digest its name carries.

    Raises:
        Unusable: it has not.
    """
    if digest_file(path) != path.name.split(".")[1]:
        raise Unusable("is damaged")


def digest_settings(settings: dict) -> str:
    """Return the blake2b-128 of what determines the numbers, in hex, as parts carry it."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def part_number(path: Path) -> int:
    """Return which part of its shard one is, from 1."""
    return int(path.name.removeprefix("part-").split(".")[0])
