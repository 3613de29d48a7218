"""What the tests share: sequences, weights in fair-esm's format, and an independent reference."""

import os

# Tests run side by side: each process takes one core, and waits without burning another.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

import random
from collections.abc import Callable
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from spotesm.weights import ARCHITECTURES, fetch_weights, load_model

SMALL_MODEL = "esm2_t6_8M_UR50D"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(AMINO_ACIDS, k=length))


def write_fasta(path: Path, records: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return path


@pytest.fixture(scope="session")
def weights_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of untrained 8M weights."""
    folder = tmp_path_factory.mktemp("weights")
    fetch_weights(SMALL_MODEL, "untrained", folder, folder / "manifest.json")
    return folder / "manifest.json"


@pytest.fixture(scope="session")
def fair_esm(weights_manifest: Path) -> esm.model.esm2.ESM2:
    return load_model(weights_manifest.with_name(f"{SMALL_MODEL}.pt"), ARCHITECTURES[SMALL_MODEL])


@pytest.fixture(scope="session")
def reference_residues(fair_esm: esm.model.esm2.ESM2) -> Callable[[str], np.ndarray]:
    """fair-esm's own way from a sequence to its residues' representations, one at a time."""
    return lambda sequence: embed_residues(fair_esm, sequence)


def embed_residues(model: esm.model.esm2.ESM2, sequence: str) -> np.ndarray:
    """Tokenise with fair-esm's converter and run its forward; (L, D), without BOS and EOS."""
    convert = model.alphabet.get_batch_converter()
    _, _, tokens = convert([("", sequence)])
    with torch.inference_mode():
        layers = model(tokens, repr_layers=[model.num_layers])["representations"]
    return layers[model.num_layers][0, 1:-1].numpy()
