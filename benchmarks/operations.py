"""Where the time of our forward goes: the share of each kind of operation, by torch's profiler.

    .venv/bin/python benchmarks/operations.py --model esm2_t30_150M_UR50D --precision bfloat16

What a kind could take at least is printed beside it: matrix products and attention at their best
rates, measured in the same round (see throughput.py).
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
from contestants import build
from proteins import random_proteins
from spotesm.base.paths import UNTRAINED
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from throughput import MOST_RESIDUES, count_operations, count_pairs, describe, measure_roofs

# By the beginning of the names of torch's operations.
KINDS = {
    "products": ("aten::addmm", "aten::mm", "mkldnn::_linear_pointwise"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention"),
    "copies, casts and filled keys": ("aten::copy_", "aten::fill_", "aten::constant_pad_nd"),
    "norms": ("aten::native_layer_norm",),
    "sums, rotation and GELU or SwiGLU": ("aten::add", "aten::mul", "aten::gelu", "aten::silu"),
}
OTHERS = "all else"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=ARCHITECTURES, default="esm2_t6_8M_UR50D")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sequences", type=int, default=24, help="how many")
    arguments = parser.parse_args()
    device, dtype = torch.device("cpu"), getattr(torch, arguments.precision)
    architecture = ARCHITECTURES[arguments.model]
    sequences = random_proteins(arguments.sequences, MOST_RESIDUES)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "weights.json")
        fetch_weights(arguments.model, UNTRAINED, manifest)
        embed = build("spotesm", Weights.read(manifest).open(), device, dtype)
        embed(sequences)
    products, attention = measure_roofs(architecture, device, dtype)
    lengths = [len(sequence) + 2 for sequence in sequences]
    least = {
        "products": sum(count_operations(architecture, n) for n in lengths) / products,
        "attention": sum(count_pairs(architecture, n) for n in lengths) / attention,
    }
    print(f"{describe(device)}; {arguments.model}, {arguments.precision}, {len(lengths)} proteins")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        embed(sequences)
    report(profile, least)


def report(profile: torch.profiler.profile, least: dict[str, float]) -> None:
    """Print seconds and shares, by kind."""
    seconds: Counter[str] = Counter()
    for event in profile.key_averages():
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), OTHERS)
        seconds[kind] += event.self_cpu_time_total / 1e6
    for kind, took in seconds.most_common():
        at_least = f", at its best rate {least[kind]:.2f}" if kind in least else ""
        print(f"{kind:32}{took:8.2f} s{took / seconds.total():6.0%}{at_least}")


if __name__ == "__main__":
    main()
