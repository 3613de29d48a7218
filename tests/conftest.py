"""Weights in fair-esm's format, and an independent reference."""

import os
import tempfile

# Tests run side by side: each process takes one core, and waits without burning another.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
# Prepared weights are shared by all tests and their jobs, and nothing is left behind.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _HUB = tempfile.TemporaryDirectory(prefix="spotesm-tests-")
    os.environ["TORCH_HOME"] = _HUB.name
    # What torch compiles for a processor is not for one with fewer instructions.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_HUB.name, "inductor")

from collections.abc import Callable, Iterator
from pathlib import Path

import esm
import hypothesis
import numpy as np
import pytest
from blocks import SMALL
from sequences import embed_residues
from spotesm.model.reference import fair_esm_model
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights

# A crowded machine is no fault of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SMALL_MODEL = "esm2_t6_8M_UR50D"
LONG_FIRST = ("slurm", "chaos", "workflow", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that take long, so that no worker is left with one in the end."""
    order = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of three rows, in all that runs in pytest's own process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, size in SMALL.items():
            monkeypatch.setattr(f"spotesm.{name}", size)
        yield


@pytest.fixture(scope="session")
def weights_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of untrained 8M weights, which are prepared, so that jobs only map them."""
    folder = tmp_path_factory.mktemp("weights")
    fetch_weights(SMALL_MODEL, "untrained", folder / "manifest.json", precision="float32")
    return folder / "manifest.json"


@pytest.fixture(scope="session")
def fair_esm(weights_manifest: Path) -> esm.model.esm2.ESM2:
    return fair_esm_model(Weights.read(weights_manifest).open())


@pytest.fixture(scope="session")
def reference_residues(fair_esm: esm.model.esm2.ESM2) -> Callable[[str], np.ndarray]:
    """fair-esm's own way from a sequence to its residues' representations, one at a time."""
    return lambda sequence: embed_residues(fair_esm, sequence)
