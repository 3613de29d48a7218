"""What a run will cost before it starts: records, shards, bytes, and time by a measured probe."""

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from esm.model.esm2 import ESM2
from rich import filesize
from rich.console import Console
from rich.table import Table

from spotesm.commands.status import duration
from spotesm.embed.task import ENGINES
from spotesm.machine.devices import resolve_precision
from spotesm.model.budget import choose_token_budget
from spotesm.request.outputs import BOS, CONTACTS, LOGITS, MEAN, RESIDUES, Outputs
from spotesm.sequences.fasta import RejectedSequence, normalise_sequence, read_fasta
from spotesm.sequences.long_sequences import SPECIAL_TOKENS, LongSequences
from spotesm.weights.files import ARCHITECTURES, Architecture

PROBE_LAYERS = 2
PROBE_SECONDS = 3.0
LOGITS_OF_A_RESIDUE = 33


@dataclass(frozen=True)
class Census:
    """What an input holds.

    Attributes:
        records, rejected: how many records, and how many of them get no row.
        lengths: (u,) residues of each different sequence.
        records_of: (u,) records that have it.
    """

    records: int
    rejected: int
    lengths: np.ndarray
    records_of: np.ndarray

    def without(self, which: np.ndarray) -> "Census":
        """Return the census with some different sequences, (u,) bool, rejected."""
        rejected = self.rejected + int(self.records_of[which].sum())
        return Census(self.records, rejected, self.lengths[~which], self.records_of[~which])


def take_census(paths: Sequence[Path]) -> Census:
    """Read FASTA files once; 24 bytes a different sequence are kept."""
    seen: dict[bytes, int] = {}
    lengths: list[int] = []
    counts: list[int] = []
    records = rejected = 0
    for path in paths:
        for _, raw in read_fasta(path):
            records += 1
            try:
                sequence, _ = normalise_sequence(raw)
            except RejectedSequence:
                rejected += 1
                continue
            digest = hashlib.blake2b(sequence, digest_size=8).digest()
            place = seen.setdefault(digest, len(lengths))
            if place == len(lengths):
                lengths.append(len(sequence))
                counts.append(0)
            counts[place] += 1
    return Census(records, rejected, np.array(lengths, np.int64), np.array(counts, np.int64))


def count_bytes(census: Census, outputs: Outputs, long: LongSequences, dim: int) -> int:
    """Return the bytes of the values in the merged file, before compression."""
    seen = census.lengths if long.policy != "truncate" else np.minimum(census.lengths, long.window)
    residues = int((seen * census.records_of).sum())
    records = int(census.records_of.sum())
    sides = seen if long.policy == "whole" else np.minimum(seen, long.window)
    windows = long.count_tokens(census.lengths) // (sides + SPECIAL_TOKENS)
    contacts = int((windows * sides**2 * census.records_of).sum())
    values = {
        MEAN: records * dim * len(outputs.layers),
        BOS: records * dim * len(outputs.layers),
        RESIDUES: residues * dim * len(outputs.layers),
        LOGITS: residues * LOGITS_OF_A_RESIDUE,
        CONTACTS: contacts,
    }
    return sum(values[name] for name in outputs.names) * outputs.dtype.itemsize


@torch.inference_mode()
def measure_speed(
    architecture: Architecture, engine: str, window: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Return tokens/s of the whole model on `device`, from a few layers of random numbers."""
    # ESM-1b and ESM-1v cost what an ESM-2 of their shape does.
    probe = ESM2(PROBE_LAYERS, architecture.embedding_dim, architecture.attention_heads)
    model = ENGINES[engine](probe, device, dtype)
    few = Outputs((MEAN,), (PROBE_LAYERS,))
    lengths = [min(window, 400) + 2] * max(1, choose_token_budget(model, few, window) // 402)
    tokens = torch.full((sum(lengths),), 5, dtype=torch.int32, device=device)
    model(tokens, lengths, few)
    passes, start = 0, time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        float(model(tokens, lengths, few).hidden[PROBE_LAYERS][0, 0])  # waits for the device
        passes += 1
    seconds_of_probe = (time.perf_counter() - start) / passes
    return len(tokens) / (seconds_of_probe * architecture.layers / PROBE_LAYERS)


@dataclass(frozen=True)
class PlanJob:
    """What `make plan` asks for.

    Attributes:
        datasets: protein FASTA files by dataset.
        shards: pieces of each dataset.
        model: name of the architecture.
        engine, outputs, layers, store_dtype, long_sequences, precision: as in `ShardJob`.
    """

    datasets: dict[str, list[Path]]
    shards: int
    model: str
    engine: str
    outputs: Sequence[str]
    layers: Sequence[int]
    store_dtype: str
    long_sequences: LongSequences
    precision: str


def plan_run(job: PlanJob) -> str:
    """Return a table of what each dataset costs on one device of this machine."""
    # A shard's job starts as this process did: Python, and the same imports.
    seconds_to_start = time.time() - psutil.Process().create_time()
    architecture = ARCHITECTURES[job.model]
    outputs = Outputs.of_model(job.outputs, job.layers, job.store_dtype, architecture.layers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(job.precision, device)
    dtype = getattr(torch, precision)
    speed = measure_speed(architecture, job.engine, job.long_sequences.window, device, dtype)
    table = Table(box=None, pad_edge=False)
    for name in (
        "dataset",
        "records",
        "rejected",
        "different",
        "residues",
        "longest",
        "shards",
        "file",
        "time",
    ):
        table.add_column(name, justify="left" if name == "dataset" else "right")
    for dataset, paths in job.datasets.items():
        census = take_census(paths)
        census = census.without(job.long_sequences.rejects(census.lengths))
        tokens = int(job.long_sequences.count_tokens(census.lengths).sum())
        size = count_bytes(census, outputs, job.long_sequences, architecture.embedding_dim)
        table.add_row(
            dataset,
            f"{census.records:,}",
            f"{census.rejected:,}",
            f"{len(census.lengths):,}",
            f"{int((census.lengths * census.records_of).sum()):,}",
            f"{census.lengths.max(initial=0):,}",
            str(job.shards),
            str(filesize.decimal(size)),
            duration(tokens / speed + job.shards * seconds_to_start),
        )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return (
        f"{job.model} in {precision} on one {describe_device(device)}: about {speed:,.0f} tokens/s "
        f"(measured on {PROBE_LAYERS} of its {architecture.layers} layers),\n"
        f"and {seconds_to_start:.0f} s to start each shard.\n\n"
        f"{console.export_text()}\n"
        "Several devices share the time, up to one a shard. Repeated sequences are computed once."
    )


def describe_device(device: torch.device) -> str:
    """Name the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"
