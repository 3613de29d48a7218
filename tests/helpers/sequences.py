"""Sequences for the tests, and what fair-esm itself makes of them."""

import random
from pathlib import Path

import esm
import numpy as np
import torch
from spotesm.request.outputs import Outputs
from spotesm.sequences.long_sequences import LongSequences

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# The default outputs of the smallest model, and what happens to long sequences by default.
MEAN = Outputs(("mean",), (6,))
WINDOWED = LongSequences("window", 1022, 256, "reject")


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(AMINO_ACIDS, k=length))


def write_fasta(path: Path, records: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return path


def embed_residues(
    model: esm.model.esm2.ESM2, sequence: str, layer: int | None = None
) -> np.ndarray:
    """Tokenise with fair-esm's converter and run its forward; (L, D), without BOS and EOS."""
    layer = model.num_layers if layer is None else layer
    convert = model.alphabet.get_batch_converter()
    _, _, tokens = convert([("", sequence)])
    with torch.inference_mode():
        layers = model(tokens, repr_layers=[layer])["representations"]
    return layers[layer][0, 1:-1].numpy()
