"""What a run will cost before it starts: records, shards, bytes, and time by a measured probe."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import psutil
import torch
from rich import filesize
from rich.console import Console
from rich.table import Table

from spotesm.base.text import duration
from spotesm.embed.earlier import Past, find_done
from spotesm.embed.task import settings_of
from spotesm.machine.devices import find_device, resolve_precision
from spotesm.machine.nvidia import AUTO
from spotesm.model.budget import choose_token_budget, probe_batch
from spotesm.model.engines import ENGINES
from spotesm.request.outputs import MEAN, Outputs, output_of
from spotesm.request.request import Request
from spotesm.runs.census import Census, take_census
from spotesm.sequences.long_sequences import SPECIAL_TOKENS
from spotesm.weights.manifest import Weights
from spotesm.weights.untrained import untrained_source

PROBE_LAYERS = 2
PROBE_SECONDS = 3.0
PROBE_RESIDUES = 400  # about the mean length of proteins
COLUMNS = (
    "dataset",
    "records",
    "rejected",
    "different",
    "reused",
    "residues",
    "longest",
    "shards",
    "file",
    "peak",
    "time",
)


def count_reused(census: Census, past: Past, request: Request, weights: Path) -> np.ndarray:
    """Return which different sequences, (u,) bool, earlier runs have computed.

    Args:
        weights: their manifest; if they are not fetched yet, they are taken for those of then.
    """
    settings = settings_of(request, Weights.read(weights) if weights.exists() else None)
    order = np.argsort(census.digests)
    reused = np.zeros(len(order), bool)
    reused[order] = find_done(past, settings, census.digests[order], census.lengths[order])
    return reused


def count_bytes(census: Census, request: Request, once: bool = False) -> int:
    """Return the bytes of the values of all records, or once of each sequence, uncompressed."""
    copies = np.ones_like(census.records_of) if once else census.records_of
    outputs = request.select()
    numbers = 0
    for key in outputs.keys:
        output = output_of(key)
        rows = request.count_rows(output, census.lengths)
        numbers += census.estimate(rows * copies) * output.width(request.architecture)
    return numbers * outputs.dtype.itemsize


@torch.inference_mode()
def measure_speed(request: Request, device: torch.device) -> float:
    """Return tokens/s on `device`, from a few layers of random numbers."""
    architecture, window = request.architecture, request.long_sequences.window
    # ESM-1b and ESM-1v cost what an ESM-2 of their shape does.
    family = "esm2" if architecture.family == "esm1" else architecture.family
    probe = untrained_source(replace(architecture, layers=PROBE_LAYERS, family=family))
    model = ENGINES[request.engine].of_source(probe, device, getattr(torch, request.precision))
    few = Outputs((MEAN,), (PROBE_LAYERS,))
    length = min(window, PROBE_RESIDUES) + SPECIAL_TOKENS
    lengths = [length] * max(1, choose_token_budget(model, few, window) // length)
    tokens = probe_batch(lengths, device)
    model(tokens, lengths, few)
    passes, start = 0, time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        float(model(tokens, lengths, few).hidden[PROBE_LAYERS][0, 0])  # waits for the device
        passes += 1
    seconds_of_probe = (time.perf_counter() - start) / passes
    layers = (
        request.select().depth(architecture.layers) if model.stops_early else architecture.layers
    )
    return len(tokens) / (seconds_of_probe * max(layers, 1) / PROBE_LAYERS)


def plan_run(
    datasets: Mapping[str, Sequence[Path]],
    shards: Mapping[str, int],
    request: Request,
    pasts: Mapping[str, Past],
    weights: Path,
    precisions: Mapping[str, str | None] = MappingProxyType({}),
) -> str:
    """Return a table of what each dataset costs on one device of this machine.

    Args:
        datasets: protein FASTA files by dataset.
        shards: into how many each is split.
        pasts: where earlier runs may have left results, by dataset.
        weights: their manifest, which need not be there yet.
        precisions: what `precision: auto` is already, by dataset.
    """
    # A shard's job starts as this process did: Python, and the same imports.
    seconds_to_start = time.time() - psutil.Process().create_time()
    device, asked = find_device(), request.precision
    request = request.resolve(resolve_precision(request.precision, device, request.architecture))
    speed = measure_speed(request, device)
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "dataset" else "right")
    sampled = []
    for dataset, paths in datasets.items():
        census = take_census(paths)
        census = census.without(request.long_sequences.rejects(census.lengths))
        noted = precisions.get(dataset) if asked == AUTO else None
        of_dataset = replace(request, precision=noted or request.precision)
        reused = count_reused(census, pasts[dataset], of_dataset, weights)
        tokens = census.estimate(request.long_sequences.count_tokens(census.lengths[~reused]))
        merged, past = count_bytes(census, request), pasts[dataset].merged
        held = past.stat().st_size if past and past.exists() else 0
        if census.one_in > 1:
            sampled.append(f"{dataset}: about, from one in {census.one_in} of its sequences.\n")
        table.add_row(
            dataset,
            f"{census.records:,}",
            f"{census.rejected:,}",
            f"{census.different:,}",
            f"{census.estimate(reused):,}",
            f"{census.estimate(census.lengths * census.records_of):,}",
            f"{census.lengths.max(initial=0):,}",
            str(shards[dataset]),
            str(filesize.decimal(merged)),
            str(filesize.decimal(merged + count_bytes(census, request, once=True) + held)),
            duration(tokens / speed + shards[dataset] * seconds_to_start),
        )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return (
        f"{request.model} in {request.precision} on one {describe_device(device)}: about "
        f"{speed:,.0f} tokens/s "
        f"(measured on {PROBE_LAYERS} of its {request.architecture.layers} layers),\n"
        f"and {seconds_to_start:.0f} s to start each shard.\n\n"
        f"{console.export_text()}\n{''.join(sampled)}"
        "Several devices share the time, up to one a shard. Repeated sequences are computed once, "
        "reused ones\nnot at all. The disk holds at the peak, when the shards are merged, their "
        "files and an earlier\nresult, too."
    )


def describe_device(device: torch.device) -> str:
    """Name the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"
