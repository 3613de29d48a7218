"""How fast is the engine: against fair-esm, against Hugging Face, against the hardware.

    make bench
    .venv/bin/python benchmarks/throughput.py --model esm2_t30_150M_UR50D --precision bfloat16

All contestants embed the same sequences with the same weights, each in a process of its own, in
turn, several times over; their embeddings are compared, so that nobody wins by doing something
else. A ratio is taken within each round, so that a busy machine slows both sides.

What is attainable is the time of the matrix products that the sequences need (about 24 L D^2
operations a token), at the best rate of a plain product, plus that of their attention (heads x L x
l^2 pairs a sequence of l tokens), at its best rate; whatever a contestant computes beyond that.
"""

import argparse
import itertools
import json
import math
import pickle
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contestants import (
    MOST_RESIDUES,
    Apart,
    Contestant,
    exact_means,
    names_of,
)
from jobs import make_job
from proteins import random_proteins
from spotesm.base.paths import UNTRAINED
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.sequences.fasta import normalise, read_fasta
from spotesm.weights.architectures import ARCHITECTURES, Architecture, tensor_shapes
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights

PAIRS_LENGTH = 1024


def main() -> None:
    """Measure and print; write JSON if asked to."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.precision)
    architecture = ARCHITECTURES[arguments.model]
    sequences = read_sequences(arguments.fasta, arguments.sequences)
    tokens = sum(len(sequence) + 2 for sequence in sequences)
    operations = sum(count_operations(architecture, len(sequence) + 2) for sequence in sequences)
    pairs = sum(count_pairs(architecture, len(sequence) + 2) for sequence in sequences)
    print(f"{describe(device)}; torch {torch.__version__}")
    print(f"{arguments.model}, {arguments.precision}: {len(sequences)} sequences, {tokens} tokens")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "weights.json")
        fetch_weights(arguments.model, UNTRAINED, manifest)
        contestants = {
            name: Apart(name, manifest, device, dtype)
            for name in names_of(architecture, device, dtype, arguments.esm_cpp)
        }
        few = sequences[:8]
        check_agreement(contestants, exact_means(Weights.read(manifest).open(), few), few)
        roofs, seconds = measure(contestants, sequences, architecture, device, dtype, arguments)
        report(seconds, roofs, tokens, operations, pairs, arguments)
        if arguments.worker:
            time_worker(contestants["spotesm"], manifest, arguments, Path(folder))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=ARCHITECTURES, default="esm2_t6_8M_UR50D")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16", "float16"], default="float32"
    )
    parser.add_argument("--fasta", type=Path, help="proteins; random ones of real lengths if none")
    parser.add_argument("--sequences", type=int, default=200, help="how many")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--esm-cpp", action="store_true", help="against esm-cpp, too (float32)")
    parser.add_argument("--worker", type=int, help="time embed_shard too, on so many sequences")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    return parser.parse_args()


def describe(device: torch.device) -> str:
    """Say what machine this is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpus = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    name = cpus.partition("model name\t: ")[2].partition("\n")[0] or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def read_sequences(fasta: Path | None, count: int) -> list[str]:
    """Return proteins of at most `MOST_RESIDUES`, longer ones cut."""
    if not fasta:
        return random_proteins(count, MOST_RESIDUES)
    sequences = [normalise(record).sequence.decode() for record in read_fasta([fasta])]
    random.Random(0).shuffle(sequences)
    return [sequence[:MOST_RESIDUES] for sequence in sequences[:count]]


def count_operations(architecture: Architecture, tokens: int) -> int:
    """Return the floating-point operations of the linear layers that one sequence needs."""
    matrices = [
        shape
        for name, shape in tensor_shapes(architecture).items()
        if name.startswith("layers.") and len(shape) == 2
    ]
    return 2 * sum(map(math.prod, matrices)) * tokens


def count_pairs(architecture: Architecture, tokens: int) -> int:
    """Return the query-key pairs of all heads and layers that one sequence needs."""
    return architecture.layers * architecture.attention_heads * tokens**2


def check_agreement(
    contestants: dict[str, Contestant], exact: dict[int, np.ndarray], few: list[str]
) -> None:
    """Embed a few sequences with all contestants, which also warms them up.

    Args:
        exact: what they should give, by how wide it is.
    """
    for name, embed in contestants.items():
        means = embed(few)
        reference = exact[means.shape[1]]
        norms = np.linalg.norm(means, axis=1) * np.linalg.norm(reference, axis=1)
        cosine = ((means * reference).sum(1) / norms).min()
        if "int8" in name:
            print(f"{name}: cosine {cosine:.4f} to float32")
        elif not cosine > 0.999:
            raise SystemExit(f"{name} computes something else: cosine {cosine:.5f} to float32")


# -- measuring ---------------------------------------------------------------------------------


def measure(
    contestants: dict[str, Contestant],
    sequences: list[str],
    architecture: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    arguments: argparse.Namespace,
) -> tuple[list[tuple[float, float]], dict[str, list[float]]]:
    """Return the roofs and the seconds of each contestant, in every round."""
    roofs = []
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.repeats):
        roofs.append(measure_roofs(architecture, device, dtype))
        for name, embed in contestants.items():
            start = time.perf_counter()
            embed(sequences)
            seconds[name].append(time.perf_counter() - start)
    return roofs, seconds


def measure_roofs(
    architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Return the FLOP/s of matrix products and the pairs/s of attention, where they are fastest."""
    products = measure_products(architecture, device, dtype)
    return products, time_attention(architecture, device, dtype)


def measure_products(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of a matrix product, over the model's own shapes and a large square."""
    rows, dim = 16384 if device.type == "cuda" else 2048, architecture.embedding_dim
    square = 8192 if device.type == "cuda" else 2048
    wide = architecture.feed_forward_dim
    shapes = [(rows, dim, wide), (rows, wide, dim), (square, square, square)]
    return max(time_product(shape, device, dtype) for shape in shapes)


def time_product(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of (m, k) times (k, n)."""
    m, k, n = shape
    x = torch.randn(m, k, device=device).to(dtype)
    weight = torch.randn(n, k, device=device).to(dtype)
    return 2 * m * k * n * rate(lambda: torch.nn.functional.linear(x, weight), device)


def time_attention(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> float:
    """Return the query-key pairs/s, summed over heads, of attention where it is fastest.

    That is at a long, aligned length; what bounds it there is the exponential.
    """
    heads = architecture.attention_heads
    shape = (1, heads, PAIRS_LENGTH, architecture.embedding_dim // heads)
    query, key, value = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    return heads * PAIRS_LENGTH**2 * rate(lambda: attend(query, key, value), device)


@torch.inference_mode()
def rate(work: Callable[[], object], device: torch.device) -> float:
    """Return how often a second `work` is done, over about half a second."""
    deadline = time.perf_counter() + 0.2  # warm up
    while time.perf_counter() < deadline:
        work()
        synchronise(device)
    start = time.perf_counter()
    for count in itertools.count(1):
        for _ in range(5):
            work()
        synchronise(device)
        if (elapsed := time.perf_counter() - start) > 0.5:
            return 5 * count / elapsed
    raise AssertionError("unreachable")


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def report(
    seconds: dict[str, list[float]],
    roofs: list[tuple[float, float]],
    tokens: int,
    operations: int,
    pairs: int,
    arguments: argparse.Namespace,
) -> None:
    """Print medians, ratios with their spread over the rounds, and how far the limit is."""
    flops, pair_rate = (statistics.median(own) for own in zip(*roofs, strict=True))
    attainable = [operations / f + pairs / p for f, p in roofs]  # seconds, by round
    numbers = {}
    print(f"{'':22}{'tokens/s':>10}{'of attainable':>15}   spotesm is faster by")
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = [t / ours for t, ours in zip(times, seconds["spotesm"], strict=True)]
        share = statistics.median(a / t for a, t in zip(attainable, times, strict=True))
        numbers[name] = {
            "tokens_per_s": tokens / median,
            "share_of_attainable": share,
            "spotesm_is_faster_by": sorted(ratios),
        }
        print(
            f"{name:22}{tokens / median:10,.0f}{share:15.0%}   {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    limit = statistics.median(attainable)
    print(f"{'attainable':22}{tokens / limit:10,.0f}{1:15.0%}")
    print(
        f"  matrix products at {flops / 1e9:,.0f} GFLOP/s take {operations / flops / limit:.0%} of "
        f"its time, attention at {pair_rate / 1e9:.2f} G pairs/s the rest"
    )
    if arguments.json:
        content = {
            "contestants": numbers,
            "products_flops_per_s": flops,
            "attention_pairs_per_s": pair_rate,
            "attainable_tokens_per_s": tokens / limit,
            "device": describe(torch.device(arguments.device)),
            "model": arguments.model,
            "precision": arguments.precision,
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def time_worker(
    forward: Contestant, manifest: Path, arguments: argparse.Namespace, folder: Path
) -> None:
    """Time `embed_shard` against the forward: start-up apart, and as the process that a job is."""
    sequences = read_sequences(arguments.fasta, arguments.worker)
    print(f"embed_shard on {len(sequences)} sequences against the bare forward:")
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        forward(sequences)
        bare = time.perf_counter() - start
        for label, checkpointing in (("with checkpoints", True), ("without", False)):
            job = fresh_job(sequences, manifest, arguments, folder, checkpointing)
            start_up = fresh_job(["M"], manifest, arguments, folder, checkpointing)
            seconds = time_call(lambda job=job: embed_shard(job))
            seconds -= time_call(lambda job=start_up: embed_shard(job))
            print(f"  {label + ', start-up apart':40}{seconds / bare:.3f} of {bare:.1f} s")
        job = fresh_job(sequences, manifest, arguments, folder, checkpointing=True)
        seconds = time_call(lambda job=job: run_job(job))
        print(f"  {'a process, from start to exit':40}{seconds / bare:.3f} of {bare:.1f} s")


def time_call(call: Callable[[], None]) -> float:
    """Return the seconds that it takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run_job(job: ShardJob) -> None:
    """Do a job in a process of its own, which imports what it needs."""
    code = (
        "import pickle, sys; from spotesm.embed.worker import embed_shard; "
        "embed_shard(pickle.loads(sys.stdin.buffer.read()))"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(job), check=True)


def fresh_job(
    sequences: list[str],
    manifest: Path,
    arguments: argparse.Namespace,
    folder: Path,
    checkpointing: bool,
) -> ShardJob:
    """Return a job in a new folder: there is nothing to resume from."""
    own = Path(tempfile.mkdtemp(dir=folder))
    return make_job(
        *(own, sequences, manifest, arguments.model, arguments.precision),
        checkpointing=checkpointing,
    )


if __name__ == "__main__":
    main()
