"""The file of a shard: a table of its records, and one of the different sequences they have.

Of n records that have u sequences, both in input order:

    records/ordinals      (n,) int64, each record's place in the inputs
    records/sequence_ids  (n,) text
    records/id_keys       (n,) uint64, as the index of the merged file has them
    records/sequences     (n,) int64, the row of its sequence
    sequences/digests     (u, 16) uint8
    sequences/lengths     (u,) int32, residues
    sequences/windows     (u,) int32, in how many it went through the model
    sequences/reasons, details   (u,) text, why it has no values; empty where it has
    sequences/KEY         (u, D), of each output with one row a sequence
    sequences/KEY         (m, D) or (m,), of ragged ones; row i has `offsets[i]` to `offsets[i + 1]`
    sequences/GROUP/offsets      (u + 1,) int64
    sequences/checksums/KEY      (u,) uint32
    sequences/reused      (u,) uint16, where anything was taken from earlier files: 0, or k for the
                          k-th of the attribute `reused_from`
    sequences/rejected_on (u,) uint16, where one was rejected for its device's sake: likewise, of
                          the attribute `rejected_on`

What belongs to a rejected sequence is undefined, but for a checksum of 0.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from spotesm.base.failures import explain_host_fault
from spotesm.hdf5.checksums import checksums_at
from spotesm.hdf5.format import DAMAGE, open_hdf5
from spotesm.hdf5.table import Table
from spotesm.hdf5.unfit import REJECTED_ON, choose_devices
from spotesm.request.outputs import offsets_of, output_of
from spotesm.request.request import Request
from spotesm.request.results import Results, Unusable
from spotesm.sequences.digests import from_bytes
from spotesm.sequences.reasons import KEYWORDS, Reason

ROWS_AT_ONCE = 8192
RECORDS, SEQUENCES = "records", "sequences"
OF_RECORDS = ("ordinals", "sequence_ids", "id_keys", SEQUENCES)
OF_SEQUENCES = ("digests", "lengths", "windows", "reasons", "details")
REUSED = "reused"  # of which earlier file a sequence is, if any
KNOWN = {keyword.encode() for keyword in KEYWORDS}
OPTIONAL = (REUSED, REJECTED_ON)
COMMON_ATTRIBUTES = (
    *(field.name for field in fields(Request)),
    "fingerprint",
    "weights",
    "weights_sha256",
    "embedding_dim",
)


class ShardFile:
    """A shard's file, open to be read.

    HDF5 takes half a MiB for an open file, so it is closed where nothing else needs it.

    Attributes:
        path: the file.
        attributes: of the file.
        common: those that all shards of a dataset have the same.
        settings: what determined the numbers.
        request: what was asked for.
        outputs: what is there of each sequence that is not rejected.
        records, sequences: the tables.
        origins: the earlier files that sequences were taken from.
        all_embedded: whether no record was rejected.

    Raises:
        Unusable: it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Parts of chunks are read as they are: a cache would read whole ones, and stay.
            self.file = open_hdf5(path, rdcc_nbytes=0)
            self.attributes = dict(self.file.attrs)
            self.common = {name: self.attributes[name] for name in COMMON_ATTRIBUTES}
            self.settings = dict(json.loads(self.attributes["fingerprint"]))
            self.request = Request.of_attributes(self.attributes)
            self.outputs = self.request.select()
            self._raw = open(path, "rb", buffering=0)  # noqa: SIM115
            self.records = Table(self.file[RECORDS], OF_RECORDS, self._raw)
            self.sequences = Table(self.file[SEQUENCES], self._of_sequences(), self._raw)
            has_origins = REUSED in self.sequences.columns
            self.origins = self.attributes["reused_from"].tolist() if has_origins else []
            self.n_records = len(self.records.columns["ordinals"])
            self.n_sequences = len(self.sequences.columns["digests"])
            self.all_embedded = self.attributes["n_embedded"] == self.n_records
            missing = {*OF_RECORDS, *self._of_sequences()} - {
                *(*OPTIONAL, *self.records.columns, *self.sequences.columns)
            }
            if missing:
                raise ValueError(f"has no {', '.join(sorted(missing))}")
            dim = self.attributes["embedding_dim"]
            problem = self.sequences.find_contradiction(self.request, dim)
        except DAMAGE as error:
            if explain_host_fault(error):
                raise
            raise Unusable(f"is not a whole shard file ({error})") from error
        if problem:
            raise Unusable(problem)
        if self.records.is_past_hdf5 and self.sequences.is_past_hdf5:
            self.file.close()

    def _of_sequences(self) -> list[str]:
        keys = self.outputs.keys
        offsets = {offsets_of(output_of(key)): None for key in self.outputs.ragged_keys}
        return [*OF_SEQUENCES, *OPTIONAL, *keys, *offsets, *map(checksums_at, keys)]

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self.file.close()

    def read_reasons(self, rows: np.ndarray) -> dict[int, Reason]:
        """Return why sequences were rejected, of those of ascending rows (k,) that were."""
        table = self.sequences
        keywords = table.read_rows("reasons", rows)
        rows, keywords = rows[keywords != b""], keywords[keywords != b""]
        if unknown := set(keywords.tolist()) - KNOWN:
            raise ValueError(f"rejects sequences for {unknown.pop()!r}")
        details = table.read_rows("details", rows)
        has_devices = REJECTED_ON in table.columns
        numbers = table.read_rows(REJECTED_ON, rows) if has_devices else np.zeros_like(rows)
        devices = choose_devices(self.attributes, numbers)
        return {
            row: Reason(keyword.decode(), detail.decode(), device)
            for row, keyword, detail, device in zip(
                *(rows.tolist(), keywords, details, devices), strict=True
            )
        }

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of `digests` (k,) DIGEST it has, ascending, and a row of each, (j,)."""
        return self.sequences.find(digests)

    def read(self, rows: np.ndarray, keys: Sequence[str]) -> Iterator[Results]:
        """Yield what it holds of some sequences under some keys, in blocks of some 64 MiB.

        What has other values than were computed is named, and passed over.

        Args:
            rows: (k,) ascending.
        """
        reasons = self.read_reasons(rows)
        rejected = np.array(list(reasons), np.int64)
        if len(rejected):
            digests = from_bytes(self.sequences.read_rows("digests", rejected))
            yield Results(digests, list(reasons.values()), np.zeros(len(rejected), np.int32))
        embedded = np.setdiff1d(rows, rejected, assume_unique=True)
        origins = self.sequences.read_rows(REUSED, embedded) if self.origins else 0 * embedded
        for number, origin in enumerate(["", *self.origins]):
            own = embedded[origins == number]
            for results in self.sequences.read_results(self.path, own, keys):
                yield replace(results, origin=origin)

    def read_all(self) -> Iterator[Results]:
        """Yield all that it holds."""
        yield from self.read(np.arange(self.n_sequences), self.outputs.keys)


def finished_paths(folder: Path) -> list[Path]:
    """Return the shards' files that a folder of checkpoints keeps under a second name."""
    return sorted(folder.glob("finished.*.h5"))


def remove_merged(shards: Sequence[Path], checkpoints: Path) -> None:
    """Remove the files of shards under all their names, and those of earlier splits.

    Args:
        shards: those that have just been merged.
        checkpoints: the folder with the checkpoints of all shards.
    """
    for folder in {path.parent for path in shards}:
        for path in folder.glob("*-of-*.h5"):
            path.unlink(missing_ok=True)
    for folder in checkpoints.glob("*-of-*"):
        for path in finished_paths(folder):
            path.unlink(missing_ok=True)
