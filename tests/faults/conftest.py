"""A shard job over the proteins of a module (its fixture `fasta`): one unbroken, one to hit."""

from pathlib import Path

import pytest
from shards import make_job, run
from spotesm.embed.task import ShardJob


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, fasta: Path, weights_manifest: Path
) -> ShardJob:
    """A job that ran once, from start to end."""
    job = make_job(tmp_path_factory.mktemp("unbroken"), fasta, weights_manifest)
    assert run(job) == 0
    return job


@pytest.fixture
def job(tmp_path: Path, fasta: Path, weights_manifest: Path) -> ShardJob:
    return make_job(tmp_path, fasta, weights_manifest)
