"""The form of what a shard's checkpoint directory keeps of finished sequences.

part-00001.<digest>.pt  digests and outputs; the name carries the blake2b-128 of the bytes
finished.<digest>.h5    a shard's whole file, named likewise
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from spotesm.base.classification import classify
from spotesm.base.failures import OUT_OF_MEMORY
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import as_bytes, from_bytes
from spotesm.sequences.reasons import Device, Reason
from spotesm.shards.shard_file import DamagedShard, ShardFile


class DamagedPart(Exception):
    """A part that must not be used; says why."""


def part_paths(folder: Path) -> list[Path]:
    """Return the parts in a folder, in the order in which they were written."""
    return sorted(folder.glob("part-[0-9]*.*.pt"), key=part_number)


def finished_paths(folder: Path) -> list[Path]:
    """Return the shards' files that a folder keeps under a second name."""
    return sorted(folder.glob("finished.*.h5"))


def read_part(path: Path, fingerprint: dict) -> Iterator[Results]:
    """Yield what a part holds, batch by batch.

    Raises:
        DamagedPart: it is damaged, or of another fingerprint or format; nothing was yielded then.
    """
    check_digest(path)
    try:
        # Mapped, not read: residues of many sequences need not be in memory together.
        part = torch.load(str(path), weights_only=True, mmap=True)
        bound, batches = part["fingerprint"], [_unpack(batch) for batch in part["batches"]]
    except Exception as error:  # on foreign bytes torch's reader raises nearly anything
        if isinstance(error, OSError) or classify(error) == OUT_OF_MEMORY:
            raise  # the part may be whole
        raise DamagedPart("is of another format") from error
    if bound != digest_settings(fingerprint):
        raise DamagedPart("belongs to other settings")
    yield from batches


def read_finished(path: Path, fingerprint: dict) -> Iterator[Results]:
    """Yield what a finished shard's file holds, in blocks.

    Raises:
        DamagedPart: it is damaged, or of another fingerprint; nothing was yielded then.
    """
    check_digest(path)
    try:
        with ShardFile(path) as finished:
            if finished.settings != fingerprint:
                raise DamagedPart("belongs to other settings")
            yield from finished.read(np.arange(finished.n_sequences), finished.outputs.keys)
    except DamagedShard as damage:
        raise DamagedPart(str(damage)) from damage


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
        DamagedPart: it has not.
    """
    if digest_file(path) != path.name.split(".")[1]:
        raise DamagedPart("is damaged")


def digest_settings(settings: dict) -> str:
    """Return the blake2b-128 of what determines the numbers, in hex, as parts carry it."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def part_number(path: Path) -> int:
    """Return which part of its shard one is, from 1."""
    return int(path.name.removeprefix("part-").split(".")[0])
