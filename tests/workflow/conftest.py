"""Folders for runs of the workflow."""

from pathlib import Path

import pytest
from snakemake_runs import link_weights


@pytest.fixture
def folder(tmp_path: Path, weights_manifest: Path) -> Path:
    """A folder where the untrained weights already are."""
    link_weights(tmp_path, weights_manifest)
    return tmp_path
