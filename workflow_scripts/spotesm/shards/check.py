"""Whether a shard's file holds what it must, before anything relies on it."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.hdf5.checksums import checksums_at, checksums_of
from spotesm.hdf5.format import DAMAGE, open_hdf5, read_structure
from spotesm.hdf5.unfit import REJECTED_ON, read_devices
from spotesm.request.outputs import CONTACTS, Outputs, output_of
from spotesm.request.request import Request
from spotesm.sequences.digests import as_bytes, hash_bytes, keys_of_hashes
from spotesm.sequences.reasons import KEYWORDS
from spotesm.sequences.sharding import Shard
from spotesm.shards import shard_file
from spotesm.shards.shard_file import (
    as_attribute,
    group_of,
    read_origins,
    read_reasons,
    read_spans,
)


def check_shard(path: Path, shard: Shard, settings: dict) -> None:
    """Check that a shard file holds what was computed, or a reason, for each record of `shard`.

    Ragged values are checked for being there, each in its own place; the merge, which reads them
    all, checks that they are those that were computed.

    Raises:
        IncompleteError: it does not, or was computed with other settings.
    """
    ids = np.array([identifier.encode() for identifier in shard.read_ids()], object)
    try:
        with open_hdf5(path) as file:
            read_structure(file)
            problem = next(_find_problems(file, shard, ids, settings), None)
    except DAMAGE as error:
        problem = f"is not a whole shard file ({error})"
    if problem:
        raise IncompleteError(f"{path}: {problem}")


def _find_problems(file: h5py.File, shard: Shard, ids: np.ndarray, settings: dict) -> Iterator[str]:
    """Yield what is wrong; what comes after the first problem relies on that one's absence."""
    if json.loads(file.attrs["fingerprint"]) != settings:
        yield "was computed with other settings"
    if any(not _equal(file.attrs[name], as_attribute(x)) for name, x in settings.items()):
        yield "contradicts itself on its settings"
    of_record = shard.sequence_of_record
    for name, expected in (
        ("ordinals", shard.ordinals),
        ("digests", as_bytes(shard.digests)[of_record]),
        ("lengths", shard.lengths[of_record]),
        ("sequence_ids", ids),
        ("id_keys", keys_of_hashes(map(hash_bytes, ids))),
    ):
        if not np.array_equal(file[name], expected):
            yield f"does not hold the {name} of its FASTA"
    reasons, details = read_reasons(file, slice(None))
    if {len(reasons), len(details), len(file["windows"])} != {len(of_record)}:
        yield "does not say of every record what became of it"
    embedded = reasons == ""
    if not set(reasons[~embedded]) <= set(KEYWORDS):
        yield "rejects records for reasons that there are not"
    on = file[REJECTED_ON][:] if REJECTED_ON in file else np.zeros(len(embedded), np.uint16)
    numbers = range(1, 1 + len(read_devices(file.attrs)))
    if on.shape != embedded.shape or on[embedded].any() or set(on[on > 0]) != set(numbers):
        yield "does not say of every rejected record on which device that was"
    if file.attrs["n_embedded"] != np.count_nonzero(embedded):
        yield "counts its records wrongly"
    if file.attrs["n_sequences"] != len(shard.digests):
        yield "counts its sequences wrongly"
    request = Request.of_attributes(file.attrs)
    outputs = request.select()
    for checksums in (file[checksums_at(key)] for key in outputs.keys):
        if checksums.shape != embedded.shape or checksums[:][~embedded].any():
            yield "does not have a checksum for every record"
    names, origin = read_origins(file)
    if origin.shape != embedded.shape or origin.max(initial=0) >= len(names):
        yield "does not say of every record whence it is reused"
    if (file["windows"][:][embedded] < 1).any():
        yield "has records without results"
    yield from _find_problems_of_rows(file, outputs, embedded)
    yield from _find_problems_of_ragged(file, request, embedded)


def _equal(stored: object, expected: object) -> bool:
    return np.array_equal(np.asarray(stored), np.asarray(expected))


def _find_problems_of_rows(
    file: h5py.File, outputs: Outputs, embedded: np.ndarray
) -> Iterator[str]:
    if list(file.attrs["row_keys"]) != outputs.row_keys:
        yield "does not name its outputs"
    for key in outputs.row_keys:
        shape = (len(embedded), file.attrs["embedding_dim"])
        if file[key].shape != shape or file[key].dtype != outputs.dtype:
            yield f"holds {key} in another shape"
        for start in range(0, len(embedded), shard_file.ROWS_AT_ONCE):
            rows = slice(start, start + shard_file.ROWS_AT_ONCE)
            values = file[key][rows][embedded[rows]]
            stated = file[checksums_at(key)][rows][embedded[rows]]
            if not np.array_equal(stated, checksums_of(values)):
                yield f"holds values of {key} that are not those that were computed"


def _find_problems_of_ragged(
    file: h5py.File, request: Request, embedded: np.ndarray
) -> Iterator[str]:
    expected = request.select().ragged_keys if embedded.any() else []
    if list(file.attrs["ragged_keys"]) != expected:
        yield "does not name its outputs"
    spans = read_spans(file)
    if any(len(n) != len(embedded) for span in spans.values() for n in span):
        yield "does not say of every record where its values are"
    lengths, windows = file["lengths"][:][embedded], file["windows"][:][embedded]
    usual = windows == request.long_sequences.count_windows(lengths)
    for key in expected:
        if spans[group_of(key)][1][~embedded].any():
            yield f"holds {key} of rejected records"
        starts, sizes = (numbers[embedded] for numbers in spans[group_of(key)])
        output = output_of(key)
        wanted = request.count_rows(output, lengths)
        if output.name == CONTACTS:  # of smaller windows, nobody knows the size
            wanted = np.where(usual, wanted, sizes)
        if (sizes != wanted).any() or (starts < 0).any() or (sizes < 1).any():
            yield f"does not hold {key} of every record"
        order = np.argsort(starts, kind="stable")
        firsts, first_of = np.unique(starts[order], return_index=True)  # equal sequences share
        ends = firsts + sizes[order][first_of]
        if (ends > np.append(firsts[1:], len(file[key]))).any():
            yield f"does not hold {key} of each record in a place of its own"
