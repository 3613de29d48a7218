"""Weights in fair-esm's format, and an independent reference."""

import os

# Tests run side by side: each process takes one core, and waits without burning another.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

from collections.abc import Callable
from pathlib import Path

import esm
import numpy as np
import pytest
from sequences import embed_residues
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.files import load_model
from spotesm.weights.sources import fetch_weights

SMALL_MODEL = "esm2_t6_8M_UR50D"
LONG_FIRST = ("slurm", "chaos", "workflow", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that take long, so that no worker is left with one in the end."""
    order = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


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
