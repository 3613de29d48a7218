"""The file of a shard, written from results that come in any order."""

import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import BinaryIO

import h5py
import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.hdf5.checksums import checksums_at, checksums_under
from spotesm.hdf5.unfit import REJECTED_ON, write_devices
from spotesm.hdf5.writing import Allocated, WrittenFile
from spotesm.request.outputs import Output, offsets_of, output_of
from spotesm.request.request import Request
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import as_bytes, hash_bytes, keys_of_hashes
from spotesm.sequences.reasons import Reason
from spotesm.sequences.sharding import Shard
from spotesm.shards.shard_file import RECORDS, REUSED, ROWS_AT_ONCE, SEQUENCES

MOST_BYTES_OF_SHORT_TEXT = 64  # up to which all are stored in the same width
TEXT = h5py.string_dtype("utf-8")


class ShardWriter:
    """Fills the file of a shard, as `shard_file` describes it; a sequence's place is its row.

    Args:
        request: what is asked for, resolved.
    """

    def __init__(
        self, file: WrittenFile, shard: Shard, request: Request, embedding_dim: int
    ) -> None:
        self.file = file
        self.shard = shard
        self.outputs = outputs = request.select()
        n = len(shard.digests)
        architecture = replace(request.architecture, embedding_dim=embedding_dim)
        self._values: dict[str, Allocated | _Ragged] = {}
        for key in outputs.keys:
            output, name = output_of(key), f"{SEQUENCES}/{key}"
            shape = output.shape(n, architecture)
            if output.ragged:
                offsets = _expect_offsets(request, shard, output)
                self._values[key] = _Ragged(file, name, offsets, shape[1:], outputs.dtype)
            else:
                self._values[key] = Allocated(file, name, shape, outputs.dtype)
        self._units = outputs.units
        # By unit, whether a sequence has it; of a rejected one, nothing is missing.
        self._known = np.zeros((len(self._units), n), bool)
        self._reused = np.zeros_like(self._known)
        self._origins: list[str] = []
        self._origin = np.zeros(n, np.uint16)
        self._reasons: dict[int, Reason] = {}
        self._windows = np.zeros(n, np.int32)
        self._checksums = {key: np.zeros(n, np.uint32) for key in outputs.keys}

    @property
    def done(self) -> np.ndarray:
        """Which sequences have all their outputs, or a reason why not, (u,) bool."""
        return self._known.all(0)

    @property
    def n_reused(self) -> int:
        """How many sequences have all they have from earlier files."""
        return int(self._reused.all(0).sum())

    def lack(self, units: Sequence[str]) -> np.ndarray:
        """Return which sequences lack one of some units at least, (u,) bool."""
        return ~self._known[[self._units.index(unit) for unit in units]].all(0)

    def group_by_lack(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield units that are lacking together, and the sequences (k,) that lack just those."""
        remaining = np.flatnonzero(~self.done)
        lacking, group = np.unique(~self._known[:, remaining].T, axis=0, return_inverse=True)
        for number, pattern in enumerate(lacking):
            units = [unit for unit, lacks in zip(self._units, pattern, strict=True) if lacks]
            yield units, remaining[group.reshape(-1) == number]

    def add(self, results: Results) -> None:
        """Write the outputs of some sequences.

        Sequences of other shards are passed over, and so are outputs that one has already.
        """
        rows = self.shard.find(results.digests)
        sources = np.flatnonzero(rows >= 0)
        sources = sources[~self._known[:, rows[sources]].all(0)]
        for source in sources.tolist():
            if reason := results.reasons[source]:
                self._reject(int(rows[source]), reason)
        for place, unit in enumerate(self._units):
            keys = self.outputs.keys_of([unit])
            lacking = sources[~self._known[place, rows[sources]]]
            if not len(lacking) or not all(k in results.rows or k in results.ragged for k in keys):
                continue
            own = rows[lacking]
            found = results.only(keys).take(lacking).astype(self.outputs.dtype)
            for key in keys:
                values = found.ragged[key] if key in found.ragged else found.rows[key]
                self._values[key].write_rows(own, values)
                self._checksums[key][own] = checksums_under(key, found)
            self._note(found, own)
            self._known[place, own] = True
            self._reused[place, own] = bool(results.origin)

    def _note(self, results: Results, rows: np.ndarray) -> None:
        """Note in how many windows sequences went, and from where they come first."""
        self._windows[rows] = results.windows
        if results.origin:
            if results.origin not in self._origins:
                self._origins.append(results.origin)
            number = 1 + self._origins.index(results.origin)
            self._origin[rows] = np.where(self._origin[rows] > 0, self._origin[rows], number)

    def _reject(self, row: int, reason: Reason) -> None:
        self._reasons[row] = reason
        self._known[:, row] = True
        self._reused[:, row] = False
        self._origin[row] = self._windows[row] = 0
        for checksums in self._checksums.values():
            checksums[row] = 0

    def finish(
        self, settings: dict, facts: dict, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        """Add what is known of sequences and records, once every sequence has its result.

        Args:
            settings: what determined the numbers; attributes, lists and mappings as JSON.
            facts: where the weights came from and how the work went; attributes.
            check_stop: called now and then.

        Raises:
            IncompleteError: some sequence has none.
        """
        if missing := np.count_nonzero(~self.done):
            raise IncompleteError(
                f"{self.shard.path}: {missing} sequences have no result; run the same command again"
            )
        self._write_sequences(self.file[SEQUENCES], check_stop)
        self._write_records(self.file.create_group(RECORDS), check_stop)
        attributes = self.file.attrs
        attributes.update({name: as_attribute(value) for name, value in settings.items()})
        attributes.update(facts)
        attributes["fingerprint"] = json.dumps(settings, sort_keys=True)
        attributes["n_sequences"] = len(self.shard.digests)
        rejected = np.isin(self.shard.sequence_of_record, list(self._reasons))
        attributes["n_embedded"] = np.count_nonzero(~rejected)

    def _write_sequences(self, table: h5py.Group, check_stop: Callable[[], None]) -> None:
        for key, values in self._values.items():
            check_stop()
            if isinstance(values, _Ragged):
                offsets = values.finish()  # the same for all layers
                if offsets_of(output_of(key)) not in table:
                    table[offsets_of(output_of(key))] = offsets
            table[checksums_at(key)] = self._checksums[key]
        table["digests"] = as_bytes(self.shard.digests)
        table["lengths"] = self.shard.lengths
        table["windows"] = self._windows
        for name, field in (("reasons", "keyword"), ("details", "detail")):
            texts = {row: getattr(reason, field).encode() for row, reason in self._reasons.items()}
            of_row = np.full(len(self._windows), b"", object)
            of_row[list(texts)] = list(texts.values())
            dtype = type_of_texts(max(map(len, texts.values()), default=0) or 1)
            table.create_dataset(name, data=of_row.astype(dtype), dtype=dtype)
        devices = write_devices(self.file.attrs, self._reasons.values())
        if devices:
            numbers = np.zeros(len(self._windows), np.uint16)
            for row, reason in self._reasons.items():
                numbers[row] = 1 + devices.index(reason.device) if reason.device else 0
            table[REJECTED_ON] = numbers
        if self._origins:
            table[REUSED] = self._origin
            self.file.attrs["reused_from"] = self._origins

    def _write_records(self, table: h5py.Group, check_stop: Callable[[], None]) -> None:
        shard = self.shard
        n = len(shard.ordinals)
        table["ordinals"] = shard.ordinals
        table[SEQUENCES] = shard.sequence_of_record
        type_of_id = type_of_texts(shard.widest_id)
        ids = table.create_dataset("sequence_ids", n, type_of_id)
        id_keys = table.create_dataset("id_keys", n, np.uint64)
        start = 0
        for block in in_blocks(shard.read_ids()):
            check_stop()
            texts = np.array([text.encode() for text in block], object)
            ids[start : start + len(block)] = texts.astype(type_of_id)
            id_keys[start : start + len(block)] = keys_of_hashes(map(hash_bytes, texts))
            start += len(block)


class _Ragged:
    """The values of a ragged output: each sequence's in the place that its length tells.

    But for those that were cut into smaller windows: of them nobody knows how many there will be,
    so they wait in a temporary file, until a dataset is made in which all have their place.
    """

    def __init__(
        self, file: WrittenFile, name: str, offsets: np.ndarray, shape: tuple, dtype: np.dtype
    ) -> None:
        self._file, self._name, self._shape, self._dtype = file, name, shape, dtype
        self._offsets = offsets
        self._values = Allocated(file, name, (int(offsets[-1]), *shape), dtype)
        self._waiting: dict[int, tuple[int, int]] = {}  # by row, from which byte on, how many

    @cached_property
    def _waiting_room(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self._file.sink.path.parent)

    def write_rows(self, rows: np.ndarray, ragged: Ragged) -> None:
        """Write the values of sequences (k,), in any order."""
        for row, (start, end) in zip(rows.tolist(), pairwise(ragged.offsets), strict=True):
            values = ragged.values[start:end]
            if len(values) == self._offsets[row + 1] - self._offsets[row]:
                self._values.write(int(self._offsets[row]), values)
            else:
                self._waiting[row] = self._waiting_room.seek(0, os.SEEK_END), len(values)
                self._waiting_room.write(values.tobytes())

    def finish(self) -> np.ndarray:
        """Return where the values of each sequence begin and, last, where they end, (u + 1,)."""
        if not self._waiting:
            return self._offsets
        sizes = np.diff(self._offsets)
        sizes[list(self._waiting)] = [n for _, n in self._waiting.values()]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._file.move(self._name, "outgrown")
        values = Allocated(self._file, self._name, (int(offsets[-1]), *self._shape), self._dtype)
        for row in range(len(sizes)):
            values.write(int(offsets[row]), self._read(row))
        del self._file["outgrown"]
        self._waiting_room.close()
        return offsets

    def _read(self, row: int) -> np.ndarray:
        if row not in self._waiting:
            return self._values.read(int(self._offsets[row]), int(self._offsets[row + 1]))
        start, n = self._waiting[row]
        self._waiting_room.seek(start)
        numbers = n * math.prod(self._shape)
        return np.fromfile(self._waiting_room, self._dtype, numbers).reshape(n, *self._shape)


def _expect_offsets(request: Request, shard: Shard, output: Output) -> np.ndarray:
    """Return where the values of each sequence would begin and end in windows of usual size."""
    lengths = shard.lengths.astype(np.int64)
    sizes = np.where(
        request.long_sequences.rejects(lengths), 0, request.count_rows(output, lengths)
    )
    return np.concatenate([[0], np.cumsum(sizes)])


def type_of_texts(widest: int) -> np.dtype:
    """Return how texts of so many bytes at most are stored: in one width if that is short."""
    return h5py.string_dtype("utf-8", widest) if 0 < widest <= MOST_BYTES_OF_SHORT_TEXT else TEXT


def in_blocks(items: Iterable[str]) -> Iterator[list[str]]:
    """Yield some thousands at a time."""
    items = iter(items)
    while block := list(itertools.islice(items, ROWS_AT_ONCE)):
        yield block


def as_attribute(value: object) -> object:
    """Return what h5py can store: JSON text for mappings, anything else as it is."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
