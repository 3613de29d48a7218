"""A shard's HDF5 file: written from results in any order, checked before anything relies on it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from spotesm.failures import IncompleteError
from spotesm.results import Results
from spotesm.sharding import Shard

ROWS_AT_ONCE = 8192
TEXT = h5py.string_dtype("utf-8")


class ShardWriter:
    """Fills a shard's HDF5 file, whose rows are the shard's records in input order.

    Datasets, for n records: `ordinals` (n,) int64, `sequence_ids` (n,) text, `lengths` (n,)
    int32, `digests` (n, 16) uint8, `reasons` (n,) text, empty where the record is embedded,
    and `mean/LAYER` (n, D) float32.
    """

    def __init__(self, file: h5py.File, shard: Shard, layer: int, embedding_dim: int) -> None:
        self.file = file
        self.shard = shard
        n_records, n_sequences = len(shard.ordinals), len(shard.digests)
        self._mean = file.create_dataset(f"mean/{layer}", (n_records, embedding_dim), np.float32)
        self._reason_of_sequence = np.full(n_sequences, None, dtype=object)
        # The records of sequence i are _records[_edges[i] : _edges[i + 1]].
        self._records = np.argsort(shard.sequence_of_record, kind="stable")
        counts = np.bincount(shard.sequence_of_record, minlength=n_sequences)
        self._edges = np.concatenate([[0], np.cumsum(counts)])

    def add(self, results: Results) -> None:
        """Write the outputs of some sequences to the rows of all records that have them."""
        sequences = self.shard.find(results.digests)
        rows, sources = [], []
        for source in np.flatnonzero(sequences >= 0):
            sequence = sequences[source]
            self._reason_of_sequence[sequence] = results.reasons[source]
            records = self._records[self._edges[sequence] : self._edges[sequence + 1]]
            rows.append(records)
            sources.append(np.full(len(records), source))
        if rows:
            self._write_rows(np.concatenate(rows), np.concatenate(sources), results.mean)

    def _write_rows(self, rows: np.ndarray, sources: np.ndarray, mean: np.ndarray) -> None:
        order = np.argsort(rows)  # h5py wants ascending rows
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            self._mean[rows[chosen]] = mean[sources[chosen]]

    def finish(self, settings: dict, facts: dict) -> None:
        """Add what is known of the records themselves, once every sequence has its result.

        Args:
            settings: what determined the numbers; attributes, lists and mappings as JSON.
            facts: where the weights came from and how the work went; attributes.

        Raises:
            IncompleteError: some sequence has none.
        """
        missing = sum(reason is None for reason in self._reason_of_sequence)
        if missing:
            raise IncompleteError(
                f"{self.shard.path}: {missing} sequences have no result; run the same command again"
            )
        shard, file = self.shard, self.file
        file["ordinals"] = shard.ordinals
        file["lengths"] = shard.lengths[shard.sequence_of_record]
        file["digests"] = digests_as_bytes(shard.digests)[shard.sequence_of_record]
        reasons = self._reason_of_sequence[shard.sequence_of_record]
        file.create_dataset("reasons", data=reasons, dtype=TEXT)
        ids = file.create_dataset("sequence_ids", len(shard.ordinals), TEXT)
        start = 0
        for block in _in_blocks(shard.read_ids()):
            ids[start : start + len(block)] = block
            start += len(block)
        attributes = {name: as_attribute(value) for name, value in settings.items()}
        file.attrs.update(attributes)
        file.attrs.update(facts)
        file.attrs["fingerprint"] = json.dumps(settings, sort_keys=True)
        file.attrs["n_sequences"] = len(shard.digests)
        file.attrs["n_embedded"] = np.count_nonzero(reasons == "")


def as_attribute(value: object) -> object:
    """Return what h5py can store: JSON text for mappings, anything else as it is."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def digests_as_bytes(digests: np.ndarray) -> np.ndarray:
    """View (k,) S16 digests as (k, 16) uint8."""
    return digests.view(np.uint8).reshape(-1, digests.dtype.itemsize)


def read_shard_results(path: Path) -> Iterator[Results]:
    """Yield what a complete shard file holds, in blocks of rows."""
    with h5py.File(path, "r") as file:
        (mean,) = file["mean"].values()
        for start in range(0, len(mean), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            digests = file["digests"][rows].reshape(-1).view("S16")
            _, first = np.unique(digests, return_index=True)
            reasons = file["reasons"].asstr()[rows]
            yield Results(digests[first], mean[rows][first], reasons[first].tolist())


def check_shard(path: Path, shard: Shard, settings: dict) -> None:
    """Check that a shard file holds a finite row or a reason for each record of `shard`.

    Raises:
        IncompleteError: it does not, or was computed with other settings.
    """
    try:
        with h5py.File(path, "r") as file:
            problem = _find_problem(file, shard, settings)
    except (OSError, KeyError) as error:
        problem = f"is not a whole shard file ({error})"
    if problem:
        raise IncompleteError(f"{path}: {problem}")


def _find_problem(file: h5py.File, shard: Shard, settings: dict) -> str | None:
    if json.loads(file.attrs["fingerprint"]) != settings:
        return "was computed with other settings"
    if not np.array_equal(file["ordinals"], shard.ordinals):
        return "does not hold the records of its FASTA"
    expected = digests_as_bytes(shard.digests)[shard.sequence_of_record]
    if not np.array_equal(file["digests"], expected):
        return "does not hold the sequences of its FASTA"
    (mean,) = file["mean"].values()
    for start in range(0, len(mean), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        embedded = file["reasons"].asstr()[rows] == ""
        if not np.isfinite(mean[rows][embedded]).all():
            return "holds values that are not finite"
    return None


def _in_blocks(items: Iterator[str]) -> Iterator[list[str]]:
    while block := list(itertools.islice(items, ROWS_AT_ONCE)):
        yield block
