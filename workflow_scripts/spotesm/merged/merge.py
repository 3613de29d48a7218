"""Merge the shards of a dataset into one HDF5 file, in input order, and prove it complete."""

import json
import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from spotesm import __version__
from spotesm.base.durable import read_json, replacing, write_json
from spotesm.base.failures import IncompleteError
from spotesm.base.limits import allow_open_files
from spotesm.base.paths import UNTRAINED
from spotesm.base.text import count
from spotesm.hdf5.checksums import checksum_of, checksums_at
from spotesm.hdf5.format import FORMAT, FORMAT_VERSION, open_hdf5
from spotesm.hdf5.pieces import Column, bytes_of_row
from spotesm.hdf5.unfit import write_unfit
from spotesm.hdf5.writing import WrittenFile
from spotesm.merged.index import IndexWriter
from spotesm.merged.orfs import Origins
from spotesm.merged.shard_rows import BLOCK_BYTES, Block, Gatherer, open_shard
from spotesm.request.outputs import LOGITS, offsets_of, output_of
from spotesm.sequences.alphabet import name_tokens
from spotesm.sequences.reasons import Reason
from spotesm.sequences.rejected import TRANSLATE, read_rejected, writing_rejected
from spotesm.shards.shard_file import REUSED, SEQUENCES, ShardFile, remove_merged

log = logging.getLogger(__name__)

# What the report shows of a summary, beside what `describe` says.
COUNTED = ("n_records", "n_rejected", "n_embedded", "n_sequences", "n_residues", "embedding_dim")
CHUNK_BYTES = 128 << 10  # what reading one row costs at most, against the overhead of many chunks
ID_KEYS = "id_keys"
WORK = ("n_sequences", "n_computed", "n_resumed", "n_reused", "attempts", "seconds")


@dataclass(frozen=True)
class MergeJob:
    """What `merge_shards` reads and writes.

    Attributes:
        shards: the shard files; each holds its records in ascending order of their ordinals.
        split: the counts of `split_fasta`, JSON.
        split_rejected: the records that `split_fasta` rejected, TSV.
        output: the HDF5 file of the dataset.
        rejected: every rejected record of the dataset, TSV.
        summary: what was done, in numbers, JSON.
        max_rejected: fraction of the records that may be rejected.
        nucleotide: whether the ids are those of `translate_contigs`.
        compression: of the HDF5 file, `gzip`, `lzf` or None.
        config: the settings of the run, kept in the file.
        input: what the records come from, kept in the file.
        earlier: the second name of what `output` replaces, removed in the end.
        checkpoints: the folder with the checkpoints of the shards; None if their files are kept.
    """

    shards: Sequence[Path]
    split: Path
    split_rejected: Path
    output: Path
    rejected: Path
    summary: Path
    max_rejected: float
    nucleotide: bool
    compression: str | None
    config: dict
    input: Mapping = field(default_factory=dict)
    earlier: Path | None = None
    checkpoints: Path | None = None


def merge_shards(job: MergeJob) -> dict:
    """Merge shards block by block, holding a fixed number of rows in memory.

    Returns:
        The summary that was written.

    Raises:
        IncompleteError: an ordinal of the input is neither embedded nor rejected, or is both
            or twice; a value is not finite; or the shards differ in their settings. Nothing
            is written then.
        TooManyRejectedError: more than `max_rejected` of the records were. Nothing is written
            but `rejected`; the shards stay.
    """
    split = read_json(job.split)
    with ExitStack() as stack:
        allow_open_files(2 * len(job.shards))
        shards = [stack.enter_context(open_shard(path)) for path in job.shards]
        _check_same_settings(shards, job.input)
        temporary = stack.enter_context(replacing(job.output))
        rejects = stack.enter_context(writing_rejected(job.rejected))
        for contig in (r for r in read_rejected(job.split_rejected) if r.stage == TRANSLATE):
            rejects.pass_on(contig)
        file = stack.enter_context(WrittenFile(temporary))
        gatherer = Gatherer(shards, split["n_records"])
        output = _Output(file, gatherer, job.compression)
        origins = Origins(file, output.n) if job.nucleotide else None
        unfit: dict[bytes, Reason] = {}
        index = stack.enter_context(IndexWriter(job.output.parent, output.n))
        for block in gatherer.read_blocks(job.split_rejected):
            output.append(block)
            index.add(block.columns[ID_KEYS], block.columns["digests"])
            if origins:
                origins.append(block.columns["sequence_ids"])
            unfit.update(block.unfit)
            for record in block.rejected:
                reason = Reason(record.reason, record.detail)
                rejects.add(record.ordinal, record.id, record.stage, reason)
            file.check()
        rejects.check(
            split["n_records"],
            job.max_rejected,
            job.rejected,
            "Mend the input, or raise max_rejected and run again: the embeddings stay",
        )
        index.write(file)
        write_unfit(file, unfit)
        n_rejected = rejects.reasons.total()
        file.attrs.update(_attributes(shards, job, split["n_records"], n_rejected))
        work = _sum_work(shards)
    summary = _summarise(job, split, rejects.reasons, work)
    write_json(job.summary, summary)
    if job.earlier:
        job.earlier.unlink(missing_ok=True)
    if job.checkpoints:
        remove_merged(job.shards, job.checkpoints)
    log.info("%s", describe(summary))
    return summary


def _check_same_settings(shards: Sequence[ShardFile], origin: Mapping) -> None:
    for shard in shards:
        if json.loads(shard.attributes.get("input", "{}")) != origin:
            raise IncompleteError(
                f"{shard.path} was computed from another input; delete it and run again"
            )
    for shard in shards[1:]:
        if shard.common["fingerprint"] != shards[0].common["fingerprint"]:
            raise IncompleteError(
                f"{shard.path} and {shards[0].path} were computed with different settings; "
                "delete the older one and run again"
            )


def create_in_chunks(
    file: h5py.File,
    key: str,
    length: int,
    like: np.ndarray | Column,
    compression: str | None = None,
) -> None:
    """Create a dataset of `length` values or rows like those of `like`, in chunks of whole rows.

    Args:
        compression: an HDF5 filter that h5py has built in, `gzip` or `lzf`.
    """
    row = like.shape[1:]
    rows = min(max(1, CHUNK_BYTES // bytes_of_row(like)), length)
    if not rows:  # HDF5 has no chunks of nothing
        file.create_dataset(key, (0, *row), like.dtype)
        return
    # Unwritten must never look written.
    fill = np.nan if np.issubdtype(like.dtype, np.floating) else None
    layout = {"chunks": (rows, *row), "compression": compression, "fillvalue": fill}
    file.create_dataset(key, (length, *row), like.dtype, **layout)


def create_values(
    file: h5py.File,
    key: str,
    length: int,
    like: np.ndarray | Column,
    compression: str | None,
) -> None:
    """Create a dataset of the merged file: in one piece, or in chunks if they are compressed."""
    if compression:
        create_in_chunks(file, key, length, like, compression=compression)
    else:  # the merge counts what it writes: nothing stays unwritten
        file.create_dataset(key, (length, *like.shape[1:]), like.dtype, fill_time="never")


class _Output:
    """The datasets of the merged file, filled from the first row on."""

    def __init__(self, file: h5py.File, gatherer: Gatherer, compression: str | None) -> None:
        self.file = file
        self.shards = gatherer.shards
        self.n = n = sum(int(shard.attributes["n_embedded"]) for shard in self.shards)
        outputs = self.shards[0].outputs
        self._names = [name for name in gatherer.buffers if name != ID_KEYS]
        for name in self._names:
            like = gatherer.buffers[name]
            if name in outputs.row_keys:
                create_values(file, name, n, like, compression)
            else:
                file.create_dataset(name, (n, *like.shape[1:]), like.dtype)
        if outputs.row_keys:
            file["embeddings"] = h5py.SoftLink(f"/{outputs.row_keys[0]}")
        if gatherer.origins:
            file.attrs["reused_from"] = gatherer.origins
        self._end = 0
        self._values_end: Counter[str] = Counter()
        # A dataset with nothing but rejected records has none.
        self._ragged_keys = outputs.ragged_keys if n else []
        totals = {output: gatherer.count_values(output) for output in gatherer.ragged if n}
        for output in totals:
            file.create_dataset(offsets_of(output), n + 1, np.int64)
        for key in self._ragged_keys:
            like = self.shards[0].sequences.columns[key]
            create_values(file, key, totals[output_of(key)], like, compression)
            if output_of(key).name == LOGITS:
                file[key].parent.attrs["alphabet"] = name_tokens(like.shape[1])

    def append(self, block: Block) -> None:
        """Write the next rows."""
        rows = slice(self._end, self._end + len(block.shards))
        for name in self._names:
            self.file[name][rows] = block.columns[name]
        for key in self._ragged_keys:
            self._append_values(key, block)
        for output, spans in block.spans.items() if self._ragged_keys else ():
            offsets, sizes = self.file[offsets_of(output)], spans[:, 1] - spans[:, 0]
            offsets[rows.start + 1 : rows.stop + 1] = offsets[rows.start] + sizes.cumsum()
        self._end = rows.stop

    def _append_values(self, key: str, block: Block) -> None:
        """Copy the values of a ragged output, which need not fit into memory together."""
        pending, pending_bytes = [], 0
        stated = block.columns[checksums_at(key)]
        spans = block.spans[output_of(key)]
        for i, (number, (start, end)) in enumerate(zip(block.shards, spans, strict=True)):
            shard = self.shards[number]
            values = shard.sequences.read(key, int(start), int(end))
            if checksum_of(values) != stated[i]:
                raise IncompleteError(
                    f"{shard.path}: holds values of {key} that are not those "
                    "that were computed; delete it and run again"
                )
            pending.append(values)
            pending_bytes += values.nbytes
            if pending_bytes >= BLOCK_BYTES:
                self._write_values(key, pending)
                pending, pending_bytes = [], 0
        self._write_values(key, pending)

    def _write_values(self, key: str, pending: list[np.ndarray]) -> None:
        if pending:
            values = np.concatenate(pending)
            if not np.isfinite(values).all():
                raise IncompleteError(f"a value of {key} is not finite")
            start = self._values_end[key]
            self.file[key][start : start + len(values)] = values
            self._values_end[key] += len(values)


def _attributes(
    shards: Sequence[ShardFile], job: MergeJob, n_records: int, n_rejected: int
) -> dict[str, object]:
    common = shards[0].common
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **common,
        "n_records": n_records,
        "n_rejected": n_rejected,
        "spotesm_version": __version__,
        "torch_version": version("torch"),
        "python_version": platform.python_version(),
        "config": json.dumps(job.config, sort_keys=True),
        "input": json.dumps(dict(job.input)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "biologically_meaningful": common["weights"] != UNTRAINED,
    }


def _sum_work(shards: Sequence[ShardFile]) -> dict:
    """Return how the work of all shards went, and how many records come from which earlier file."""
    totals, origins = Counter(dict.fromkeys(WORK, 0)), Counter[str]()
    for shard in shards:
        for name in WORK:
            totals[name] += shard.attributes[name].item()
        if shard.origins:
            of_sequence = shard.sequences.read(REUSED, 0, shard.n_sequences)
            numbers = of_sequence[shard.records.read(SEQUENCES, 0, shard.n_records)]
            counts = np.bincount(numbers, minlength=1 + len(shard.origins))
            origins.update(dict(zip(shard.origins, counts[1:].tolist(), strict=True)))
    return {**totals, "reused_from": dict(origins)}


def _summarise(job: MergeJob, split: dict, reasons: Counter[str], work: dict) -> dict:
    with open_hdf5(job.output) as file:
        summary = {
            "file": str(job.output),
            "n_embedded": len(file["sequence_ids"]),
            "outputs": file.attrs["outputs"].tolist(),
            "embedding_dim": int(file.attrs["embedding_dim"]),
            "untrained": file.attrs["weights"] == UNTRAINED,
            "weights_sha256": file.attrs["weights_sha256"],
            "model": file.attrs["model"],
        }
    return {
        **summary,
        **split,
        "n_rejected": reasons.total(),
        "rejected": dict(reasons),
        **work,
    }


def read_summary(path: Path) -> dict | None:
    """Return the counts that a merge wrote; None if they are not there, or damaged."""
    try:
        summary = read_json(path)
        describe(summary)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary if all(type(summary.get(name)) is int for name in COUNTED) else None


def describe(summary: dict) -> str:
    """Say in one line where the result is, how large, and how long it took."""
    line = (
        f"{summary['file']}: {count(summary['n_embedded'], 'row')} of "
        f"{summary['embedding_dim']} dimensions ({count(summary['n_rejected'], 'record')} "
        f"rejected), computed in {summary['seconds']:.0f} s"
    )
    if reused := summary.get("n_reused"):
        line += f"; {reused} of {summary['n_sequences']} sequences were computed by earlier runs"
    if summary["untrained"]:
        line += "; the weights are untrained, so these numbers mean nothing biologically"
    return line
