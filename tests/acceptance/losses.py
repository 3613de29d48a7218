"""How much half precision loses on a GPU, as JSON: relative root mean square by output.

python tests/acceptance/losses.py MODEL PRECISION
"""

import json
import random
import sys
from collections.abc import Iterator

import numpy as np
import torch
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.packed import PackedModel
from spotesm.request.outputs import CONTACTS, OUTPUTS, Outputs
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.untrained import untrained_source

LENGTHS = (1022, 640, 300, 300, 120, 33, 2, 1)
CUDA = torch.device("cuda", 0)


def main(model: str, precision: str) -> None:
    """Compute all outputs twice, and print."""
    exact, half = (dict(outputs_of(model, name)) for name in ("float32", precision))
    print(json.dumps({key: loss(half[key], values) for key, values in exact.items()}))


def loss(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the root mean square of the difference, in units of that of the values."""
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


def outputs_of(model: str, precision: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each output, all proteins laid one after another."""
    source = untrained_source(ARCHITECTURES[model])
    dtype = getattr(torch, precision)
    packed = PackedModel.of_source(source, CUDA, dtype)
    names = [n for n in OUTPUTS if n != CONTACTS or source.architecture.has_regression]
    outputs = Outputs(tuple(names), (packed.n_layers,))
    windows = LongSequences("window", 1022, 0, "reject")
    rng = random.Random(1)
    proteins = ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=n)).encode() for n in LENGTHS]
    encoder = Encoder(lambda _: packed, dtype, outputs, windows)
    (results,) = encoder.embed_each([Batch.of(proteins)], sum(LENGTHS) + 2 * len(LENGTHS))
    yield from results.rows.items()
    yield from ((key, ragged.values) for key, ragged in results.ragged.items())


if __name__ == "__main__":
    main(*sys.argv[1:])
