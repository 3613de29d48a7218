"""Folders for runs of the workflow."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, weights_manifest: Path) -> Path:
    """A folder where the untrained weights already are: few runs are about fetching them."""
    weights = tmp_path / "resources/weights/untrained"
    weights.mkdir(parents=True)
    (weights / "esm2_t6_8M_UR50D.json").symlink_to(weights_manifest)
    return tmp_path
