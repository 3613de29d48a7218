"""A shard's HDF5 file: written from results in any order, checked before anything relies on it."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.hdf5.checksums import checksums_at, checksums_under
from spotesm.hdf5.format import open_hdf5
from spotesm.hdf5.pieces import BYTES_AT_ONCE, bytes_of_row
from spotesm.hdf5.unfit import REJECTED_ON, choose_devices, write_devices
from spotesm.hdf5.writing import WrittenFile
from spotesm.request.outputs import Outputs, output_of
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import as_bytes, from_bytes, hash_bytes, keys_of_hashes
from spotesm.sequences.reasons import Reason
from spotesm.sequences.sharding import Shard

ROWS_AT_ONCE = 8192
CHUNK_BYTES = 128 << 10  # what reading one row costs at most, against the overhead of many chunks
MOST_BYTES_OF_SHORT_ID = 64  # up to which all ids are stored in the same width
UNWRITTEN = -1  # where no values of a ragged output start
TEXT = h5py.string_dtype("utf-8")
REUSED = "reused"  # of which earlier file a record is, if any


class ShardWriter:
    """Fills a shard's HDF5 file, whose rows are the shard's records in input order.

    Datasets, for n records: `ordinals` (n,) int64, `sequence_ids` (n,) text, `id_keys` (n,) uint64,
    as the index of the merged file has them, `lengths` (n,) int32, `digests` (n, 16) uint8,
    `reasons` and `details` (n,) text, empty where the record is embedded, `windows` (n,) int32, and
    for each key of an output with one row a sequence (n, D). Ragged outputs are stored once a
    sequence, in the order of computation: the key itself is (sum of sizes, D) or (sum,), and a
    record's values are `starts[i]` to `starts[i] + sizes[i]`, (n,) int64 each, in `GROUP/starts`
    and `GROUP/sizes`. `checksums/KEY` (n,) uint32. `reused` (n,) uint16, where anything was taken
    from earlier files: 0, or k for the k-th of the attribute `reused_from`. `rejected_on` (n,)
    uint16, where a record was rejected for its device's sake: likewise, of the attribute
    `rejected_on`.
    """

    def __init__(
        self, file: WrittenFile, shard: Shard, outputs: Outputs, embedding_dim: int
    ) -> None:
        self.file = file
        self.shard = shard
        self.outputs = outputs
        n_records, n_sequences = len(shard.ordinals), len(shard.digests)
        for key in outputs.row_keys:
            # Unwritten must never look written.
            file.create_dataset(key, (n_records, embedding_dim), outputs.dtype, fillvalue=np.nan)
        self._units = outputs.units
        # By unit, whether a sequence has it; of a rejected one, nothing is missing.
        self._known = np.zeros((len(self._units), n_sequences), bool)
        self._reused = np.zeros_like(self._known)
        self._origins: list[str] = []
        self._origin = np.zeros(n_sequences, np.uint16)
        self._reasons: dict[int, Reason] = {}
        self._windows = np.zeros(n_sequences, np.int32)
        self._checksums = {key: np.zeros(n_sequences, np.uint32) for key in outputs.keys}
        groups = {group_of(key) for key in outputs.ragged_keys}
        self._starts = {group: np.full(n_sequences, UNWRITTEN) for group in groups}
        self._sizes = {group: np.zeros(n_sequences, np.int64) for group in groups}
        # The records of sequence i are _records[_edges[i] : _edges[i + 1]].
        self._records = np.argsort(shard.sequence_of_record, kind="stable")
        counts = np.bincount(shard.sequence_of_record, minlength=n_sequences)
        self._edges = np.concatenate([[0], np.cumsum(counts)])

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
        """Write the outputs of some sequences, for all records that have them.

        Sequences of other shards are passed over, and so are outputs that one has already.
        """
        sequences = self.shard.find(results.digests)
        sources = np.flatnonzero(sequences >= 0)
        sources = sources[~self._known[:, sequences[sources]].all(0)]
        if not len(sources):
            return
        self._note_rejected(results, sources, sequences[sources])
        for place, unit in enumerate(self._units):
            keys = self.outputs.keys_of([unit])
            lacking = sources[~self._known[place, sequences[sources]]]
            if not len(lacking) or not all(k in results.rows or k in results.ragged for k in keys):
                continue
            for key in keys:
                if key in results.rows:
                    rows, of_row = self._rows_of(sequences[lacking])
                    self._write_rows(self.file[key], rows, results.rows[key], lacking[of_row])
                else:
                    self._append(key, sequences, lacking, results.ragged[key])
                self._checksums[key][sequences[lacking]] = checksums_under(key, results)[lacking]
            self._note(results, lacking, sequences[lacking])
            self._known[place, sequences[lacking]] = True
            self._reused[place, sequences[lacking]] = bool(results.origin)

    def _note(self, results: Results, sources: np.ndarray, sequences: np.ndarray) -> None:
        """Note in how many windows sequences went, and from where they come first."""
        self._windows[sequences] = results.windows[sources]
        if results.origin:
            if results.origin not in self._origins:
                self._origins.append(results.origin)
            number = 1 + self._origins.index(results.origin)
            self._origin[sequences] = np.where(
                self._origin[sequences] > 0, self._origin[sequences], number
            )

    def _note_rejected(self, results: Results, sources: np.ndarray, sequences: np.ndarray) -> None:
        for source, sequence in zip(sources.tolist(), sequences.tolist(), strict=True):
            if reason := results.reasons[source]:
                self._reject(sequence, reason)

    def _reject(self, sequence: int, reason: Reason) -> None:
        self._reasons[sequence] = reason
        self._known[:, sequence] = True
        self._reused[:, sequence] = False
        self._origin[sequence] = self._windows[sequence] = 0
        for checksums in self._checksums.values():
            checksums[sequence] = 0
        for group in self._starts:
            self._starts[group][sequence], self._sizes[group][sequence] = UNWRITTEN, 0

    def _rows_of(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of some sequences (k,), and the place in `sequences` of each."""
        counts = self._edges[sequences + 1] - self._edges[sequences]
        of_row = np.repeat(np.arange(len(sequences)), counts)
        within = np.arange(len(of_row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._records[self._edges[sequences][of_row] + within], of_row

    def _write_rows(
        self, dataset: h5py.Dataset, rows: np.ndarray, values: np.ndarray, sources: np.ndarray
    ) -> None:
        order = np.argsort(rows)  # h5py wants ascending rows
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            dataset[rows[chosen]] = values[sources[chosen]]

    def _append(self, key: str, sequences: np.ndarray, sources: np.ndarray, ragged: Ragged) -> None:
        dataset = self.file.get(key)
        if dataset is None:
            dataset = create_in_chunks(self.file, key, 0, ragged.values, growing=True)
        before = len(dataset)
        dataset.resize(before + len(ragged.values), axis=0)
        dataset[before:] = ragged.values
        starts = before + np.concatenate([[0], np.cumsum(ragged.sizes)[:-1]])
        group = group_of(key)
        self._starts[group][sequences[sources]] = starts[sources]
        self._sizes[group][sequences[sources]] = ragged.sizes[sources]

    def finish(self, settings: dict, facts: dict) -> None:
        """Add what is known of the records themselves, once every sequence has its result.

        Args:
            settings: what determined the numbers; attributes, lists and mappings as JSON.
            facts: where the weights came from and how the work went; attributes.

        Raises:
            IncompleteError: some sequence has none.
        """
        if missing := np.count_nonzero(~self.done):
            raise IncompleteError(
                f"{self.shard.path}: {missing} sequences have no result; run the same command again"
            )
        shard, file = self.shard, self.file
        file["ordinals"] = shard.ordinals
        file["lengths"] = shard.lengths[shard.sequence_of_record]
        file["digests"] = as_bytes(shard.digests)[shard.sequence_of_record]
        file["windows"] = self._windows[shard.sequence_of_record]
        if self._origins:
            file[REUSED] = self._origin[shard.sequence_of_record]
            file.attrs["reused_from"] = self._origins
        self._write_devices()
        for group in self._starts:
            file[f"{group}/starts"] = self._starts[group][shard.sequence_of_record]
            file[f"{group}/sizes"] = self._sizes[group][shard.sequence_of_record]
        for key, checksums in self._checksums.items():
            file[checksums_at(key)] = checksums[shard.sequence_of_record]
        reasons, details = self._reason_texts()
        for name, texts in (("reasons", reasons), ("details", details)):
            file.create_dataset(name, data=texts[shard.sequence_of_record], dtype=TEXT)
        short = 0 < shard.widest_id <= MOST_BYTES_OF_SHORT_ID
        type_of_id = h5py.string_dtype("utf-8", shard.widest_id) if short else TEXT
        ids = file.create_dataset("sequence_ids", len(shard.ordinals), type_of_id)
        id_keys = file.create_dataset("id_keys", len(shard.ordinals), np.uint64)
        start = 0
        for block in _in_blocks(shard.read_ids()):
            texts = np.array([text.encode() for text in block], object)
            ids[start : start + len(block)] = texts.astype(type_of_id)
            id_keys[start : start + len(block)] = keys_of_hashes(map(hash_bytes, texts))
            start += len(block)
        attributes = {name: as_attribute(value) for name, value in settings.items()}
        file.attrs.update(attributes)
        file.attrs.update(facts)
        file.attrs["fingerprint"] = json.dumps(settings, sort_keys=True)
        file.attrs["n_sequences"] = len(shard.digests)
        file.attrs["n_embedded"] = np.count_nonzero(reasons[shard.sequence_of_record] == "")
        file.attrs["row_keys"] = self.outputs.row_keys
        file.attrs["ragged_keys"] = [key for key in self.outputs.ragged_keys if key in file]

    def _write_devices(self) -> None:
        """Write which devices sequences were rejected on, and which on which."""
        devices = write_devices(self.file.attrs, self._reasons.values())
        if devices:
            numbers = np.zeros(len(self.shard.digests), np.uint16)
            for sequence, reason in self._reasons.items():
                if reason.device:
                    numbers[sequence] = 1 + devices.index(reason.device)
            self.file[REJECTED_ON] = numbers[self.shard.sequence_of_record]

    def _reason_texts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return keyword and detail of each sequence, (u,) text each; empty if embedded."""
        texts = np.full((2, len(self.shard.digests)), "", dtype=object)
        for sequence, reason in self._reasons.items():
            texts[:, sequence] = reason.keyword, reason.detail
        return texts[0], texts[1]


def create_in_chunks(
    file: h5py.File,
    key: str,
    length: int,
    like: np.ndarray | h5py.Dataset,
    growing: bool = False,
    compression: str | None = None,
) -> h5py.Dataset:
    """Create a dataset of `length` values or rows like those of `like`, in chunks of whole rows.

    Args:
        growing: whether it can become longer.
        compression: an HDF5 filter that h5py has built in, `gzip` or `lzf`.
    """
    row = like.shape[1:]
    rows = max(1, CHUNK_BYTES // bytes_of_row(like))
    if not growing:
        rows = min(rows, length)
    # Unwritten must never look written.
    fill = np.nan if np.issubdtype(like.dtype, np.floating) else None
    if not rows:  # HDF5 has no chunks of nothing
        return file.create_dataset(key, (0, *row), like.dtype)
    return file.create_dataset(
        key,
        (length, *row),
        like.dtype,
        chunks=(rows, *row),
        maxshape=(None, *row) if growing else None,
        compression=compression,
        fillvalue=fill,
    )


def as_attribute(value: object) -> object:
    """Return what h5py can store: JSON text for mappings, anything else as it is."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def group_of(key: str) -> str:
    """Return the group in which `starts` and `sizes` of a ragged output lie."""
    return output_of(key).name


def read_reasons(file: h5py.File, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return keywords and details of some records of a shard file; empty where embedded."""
    return file["reasons"].asstr()[rows], file["details"].asstr()[rows]


def read_rejections(file: h5py.File, rows: slice) -> list[Reason | None]:
    """Return why records of a shard file were rejected; None where embedded."""
    keywords, details = read_reasons(file, rows)
    on = file[REJECTED_ON][rows] if REJECTED_ON in file else np.zeros(len(keywords), np.uint16)
    devices = choose_devices(file.attrs, on)
    return [
        Reason(keyword, detail, device) if keyword else None
        for keyword, detail, device in zip(keywords, details, devices, strict=True)
    ]


def read_settings(path: Path) -> dict:
    """Return what determined the numbers of a complete shard file."""
    with open_hdf5(path) as file:
        return json.loads(file.attrs["fingerprint"])


def read_shard_results(path: Path) -> Iterator[Results]:
    """Yield what a complete shard file holds, in blocks of some 64 MiB."""
    with open_hdf5(path) as file:
        digests = from_bytes(file["digests"][:])
        reasons = read_rejections(file, slice(None))
        windows = file["windows"][:]
        spans = read_spans(file)
        origins, origin = read_origins(file)
        records = np.sort(np.unique(digests, return_index=True)[1])
        n_blocks = 1 + path.stat().st_size // BYTES_AT_ONCE
        for some, number in itertools.product(
            np.array_split(records, n_blocks), range(len(origins))
        ):
            block = some[origin[some] == number]
            if not len(block):
                continue
            rows, inside = slice(block[0], block[-1] + 1), block - block[0]
            yield Results(
                digests[block],
                [reasons[record] for record in block],
                windows[block],
                {key: file[key][rows][inside] for key in file.attrs["row_keys"]},
                {key: _read_ragged(file, key, spans, block) for key in file.attrs["ragged_keys"]},
                origins[number],
            )


def read_origins(file: h5py.File) -> tuple[list[str], np.ndarray]:
    """Return where the records of a shard or a merged file come from: names, and which it is.

    The first name is empty: of what was computed.
    """
    if REUSED not in file:
        return [""], np.zeros(len(file["digests"]), np.uint16)
    return ["", *map(str, file.attrs["reused_from"])], file[REUSED][:]


def read_spans(file: h5py.File) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return where the ragged values of each record of a shard file lie: starts and sizes."""
    groups = {group_of(key) for key in file.attrs["ragged_keys"]}
    return {group: (file[f"{group}/starts"][:], file[f"{group}/sizes"][:]) for group in groups}


def _read_ragged(file: h5py.File, key: str, spans: dict, records: np.ndarray) -> Ragged:
    starts, sizes = (numbers[records] for numbers in spans[group_of(key)])
    values = [file[key][start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return Ragged(np.concatenate(values), sizes)


def _in_blocks(items: Iterable[str]) -> Iterator[list[str]]:
    items = iter(items)
    while block := list(itertools.islice(items, ROWS_AT_ONCE)):
        yield block
