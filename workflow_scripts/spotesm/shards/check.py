"""Whether a shard's file holds what it must, before anything relies on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spotesm.base.failures import IncompleteError, explain_host_fault
from spotesm.hdf5.checksums import checksums_at, checksums_of
from spotesm.hdf5.format import DAMAGE, open_hdf5, read_structure
from spotesm.hdf5.unfit import REJECTED_ON, read_devices
from spotesm.request.outputs import CONTACTS, offsets_of, output_of
from spotesm.request.results import Unusable
from spotesm.sequences.digests import as_bytes, hash_bytes, keys_of_hashes
from spotesm.sequences.sharding import Shard
from spotesm.shards import shard_file
from spotesm.shards.shard_file import (
    KNOWN,
    OF_RECORDS,
    OPTIONAL,
    REUSED,
    SEQUENCES,
    ShardFile,
)
from spotesm.shards.shard_writer import as_attribute, in_blocks


def check_shard(
    path: Path, shard: Shard, settings: dict, check_stop: Callable[[], None] = lambda: None
) -> None:
    """Check that a shard file holds what was computed, or a reason, for each sequence of `shard`.

    Some thousand rows are in memory at a time. Ragged values are checked for having their places;
    the merge, which reads them all, checks that they are those that were computed.

    Args:
        check_stop: called after each of the blocks.

    Raises:
        IncompleteError: it does not, or was computed with other settings.
    """
    try:
        with open_hdf5(path) as file:
            read_structure(file)
        with ShardFile(path) as held:
            problem = next(_find_problems(held, shard, settings, check_stop), None)
    except Unusable as error:
        problem = str(error)
    except DAMAGE as error:
        if explain_host_fault(error):
            raise
        problem = f"is not a whole shard file ({error})"
    if problem:
        raise IncompleteError(f"{path}: {problem}")


def _find_problems(
    held: ShardFile, shard: Shard, settings: dict, check_stop: Callable[[], None]
) -> Iterator[str]:
    """Yield what is wrong; what comes after the first problem relies on that one's absence."""
    attributes = held.attributes
    if held.settings != settings:
        yield "was computed with other settings"
    if any(not _equal(attributes[name], as_attribute(x)) for name, x in settings.items()):
        yield "contradicts itself on its settings"
    if attributes["n_sequences"] != len(shard.digests):
        yield "counts its sequences wrongly"
    if any(len(held.records.columns[name]) != len(shard.ordinals) for name in OF_RECORDS):
        yield "does not hold the records of its FASTA"
    columns = held.sequences.columns
    of_sequences = ("digests", "reasons", "details", *{*OPTIONAL} & columns.keys())
    if any(len(columns[name]) != len(shard.digests) for name in of_sequences):
        yield "does not say of every sequence what became of it"
    yield from _find_problems_of_records(held, shard)
    embedded = np.zeros(len(shard.digests), bool)
    devices: set[int] = set()
    for rows in _blocks(len(shard.digests)):
        check_stop()
        embedded[rows] = held.sequences.read("reasons", rows.start, rows.stop) == b""
        yield from _find_problems_of_sequences(held, shard, rows, embedded[rows])
        if REJECTED_ON in columns:
            numbers = held.sequences.read(REJECTED_ON, rows.start, rows.stop)
            devices |= set(numbers.tolist()) - {0}
            if numbers[embedded[rows]].any():
                yield "names devices of sequences that were not rejected"
    if devices != set(range(1, 1 + len(read_devices(attributes)))):
        yield "does not say of every rejected sequence on which device that was"
    if attributes["n_embedded"] != np.count_nonzero(embedded[shard.sequence_of_record]):
        yield "counts its records wrongly"


def _equal(stored: object, expected: object) -> bool:
    return np.array_equal(np.asarray(stored), np.asarray(expected))


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, shard_file.ROWS_AT_ONCE):
        yield slice(start, min(start + shard_file.ROWS_AT_ONCE, n))


def _find_problems_of_records(held: ShardFile, shard: Shard) -> Iterator[str]:
    for rows, names in zip(_blocks(len(shard.ordinals)), in_blocks(shard.read_ids()), strict=True):
        ids = np.array([name.encode() for name in names], object)
        for name, expected in (
            ("ordinals", shard.ordinals[rows]),
            ("sequence_ids", ids),
            ("id_keys", keys_of_hashes(map(hash_bytes, ids))),
            (SEQUENCES, shard.sequence_of_record[rows]),
        ):
            if not np.array_equal(held.records.read(name, rows.start, rows.stop), expected):
                yield f"does not hold the {name} of its FASTA"


def _find_problems_of_sequences(
    held: ShardFile, shard: Shard, rows: slice, embedded: np.ndarray
) -> Iterator[str]:
    def read(name: str) -> np.ndarray:
        return held.sequences.read(name, rows.start, rows.stop)

    for name, expected in (
        ("digests", as_bytes(shard.digests[rows])),
        ("lengths", shard.lengths[rows]),
    ):
        if not np.array_equal(read(name), expected):
            yield f"does not hold the {name} of its FASTA"
    if not np.isin(read("reasons"), [b"", *KNOWN]).all():
        yield "rejects sequences for reasons that there are not"
    if (read("windows")[embedded] < 1).any():
        yield "has sequences without results"
    if held.origins and (read(REUSED) > len(held.origins)).any():
        yield "does not say of every sequence whence it is reused"
    lengths = shard.lengths[rows][embedded].astype(np.int64)
    usual = held.request.long_sequences.count_windows(lengths)
    for key in held.outputs.keys:
        checksums, output = read(checksums_at(key)), output_of(key)
        if checksums[~embedded].any():
            yield f"has checksums of {key} where there are no values"
        if not output.ragged:
            if not np.array_equal(checksums[embedded], checksums_of(read(key)[embedded])):
                yield f"holds values of {key} that are not those that were computed"
            continue
        sizes = np.diff(held.sequences.read(offsets_of(output), rows.start, rows.stop + 1))
        own, expected = sizes[embedded], held.request.count_rows(output, lengths)
        if output.name == CONTACTS:  # of smaller windows, nobody knows the size
            expected = np.where(read("windows")[embedded] > usual, own, expected)
        if (sizes < 0).any() or (own != expected).any() or (own < 1).any():
            yield f"does not hold {key} of every sequence"
