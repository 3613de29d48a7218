"""The README's lines are typed as they stand, in their order, in a folder as a user has it."""

import gzip
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
YAML = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

NOT_HERE = {
    "git clone URL_OF_THIS_REPOSITORY spotESM && make -C spotESM install": "needs network",
    "export PATH=$PWD/spotESM/.venv/bin:$PATH": "is done for every line",
    "pip install -r spotESM/profiles/slurm/requirements.txt": "needs network",
    "spotesm embed proteomes/*.fasta.gz --each --profile slurm": "needs a cluster",
    "snakemake --snakefile spotESM/Snakefile --configfile my.yaml --workflow-profile "
    "spotESM/profiles/slurm": "needs a cluster",
}
# These would fetch weights first, so they are tried without running anything.
DRY = {
    "spotESM/.venv/bin/spotesm embed my.fasta": "--dry-run",
    "spotesm embed my.fasta --model esm2_t12_35M_UR50D": "--dry-run",
    "spotesm plan my.fasta": "-- --dry-run",
    "spotesm embed my.fasta --reuse results/demo/embeddings.h5": "--dry-run",
    "spotesm embed my.fasta --outputs mean,residues --layers 0,33 --gpus 4": "--dry-run",
    "spotesm embed contigs.fna --nucleotide --model esm2_t6_8M_UR50D": "--dry-run",
    "snakemake --snakefile spotESM/Snakefile --configfile my.yaml": "--dry-run",
    "spotesm plan --configfile my.yaml": "-- --dry-run",
    "snakemake --snakefile spotESM/Snakefile --configfile my.yaml --cores all --resources gpu=4": (
        "--dry-run"
    ),
}
ENOUGH_SECONDS = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone, set up, with data of one's own beside it."""
    clone = tmp_path / "spotESM"
    clone.mkdir()
    for path in REPOSITORY.iterdir():
        if path.name not in (".git", ".venv", ".snakemake", "results"):
            (clone / path.name).symlink_to(path)
    (clone / ".venv").symlink_to(sys.prefix)
    (tmp_path / "my.fasta").write_text(">a\nMKV\n")
    (tmp_path / "contigs.fna").write_text(f">c\n{'ACGT' * 100}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/phages.fasta.gz").write_bytes(gzip.compress(b">a\nMKV\n"))
    (tmp_path / "my.yaml").write_text(YAML[0])
    return tmp_path


def test_every_line_is_known() -> None:
    assert LINES
    assert [line for line in (*NOT_HERE, *DRY) if line not in LINES] == []


def test_every_line_works(folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'spotESM/.venv/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "workflow_scripts"),
        "XDG_CACHE_HOME": str(folder / ".cache"),
    }
    for line in LINES:
        if line in NOT_HERE:
            continue
        run = subprocess.run(
            f"{line} {DRY.get(line, '')}",
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ENOUGH_SECONDS,
        )
        assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
        assert len(shlex.split(line)) > 1
    assert (folder / "results/demo/embeddings.h5").exists()
