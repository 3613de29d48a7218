"""The blocks of README and docs, typed as they stand, in their order, in a user's folder."""

import gzip
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCKS = [
    block
    for document in DOCUMENTS
    for block in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
]
LINES = [
    (language, line)
    for language, block in BLOCKS
    for line in (
        [line.partition("  #")[0].strip() for line in block.splitlines()]
        if language == "sh"
        else [block]
    )
]
MODULE = next(block for language, block in BLOCKS if block.startswith("module spotesm"))

# By what they begin with.
NOT_HERE = {
    "git clone URL_OF_THIS_REPOSITORY spotESM && make -C spotESM install": "needs network",
    "export PATH=$PWD/spotESM/.venv/bin:$PATH": "is done for every line",
    "pip install -r spotESM/profiles/slurm/requirements.txt": "needs network",
    "spotesm embed proteomes/*.fasta.gz --each --profile slurm": "needs a cluster",
    "snakemake --snakefile spotESM/Snakefile --configfile my.yaml --workflow-profile "
    "spotESM/profiles/slurm": "needs a cluster",
    MODULE: "tests/workflow/test_module.py runs it",
}
NEEDS = {
    "protspace prepare -i demo.h5 -o demo": "protspace",
    "import scanpy": "scanpy",
    "from skbio.embedding": "skbio",
}
# These would fetch weights first, so they are tried without running anything.
DRY = {
    "spotESM/.venv/bin/spotesm embed my.fasta": "--dry-run",
    "spotesm embed my.fasta --model esm2_t12_35M_UR50D": "--dry-run",
    "spotesm embed my.fasta --model esmc_600m": "--dry-run",
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


def why_not(line: str) -> str | None:
    """Why a line or block is not tried here; None if it is."""
    missing = [tool for start, tool in NEEDS.items() if line.startswith(start)]
    missing = [tool for tool in missing if not find_spec(tool)]
    return f"{missing[0]} is missing" if missing else NOT_HERE.get(line)


def as_param(language: str, line: str) -> object:
    """A line or block, skipped by name where it cannot be tried."""
    reason = why_not(line)
    name = f"{language}: {line.strip().splitlines()[0]}"
    marks = pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}")
    return pytest.param(language, line, id=name, marks=marks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, set up, with data of one's own beside it."""
    folder = tmp_path_factory.mktemp("user")
    clone = folder / "spotESM"
    clone.mkdir()
    for path in REPOSITORY.iterdir():
        if path.name not in (".git", ".venv", ".snakemake", "results"):
            (clone / path.name).symlink_to(path)
    (clone / ".venv").symlink_to(sys.prefix)
    (folder / "my.fasta").write_text(">a\nMKV\n")
    (folder / "data").mkdir()
    (folder / "data/phages.fasta.gz").write_bytes(gzip.compress(b">a\nMKV\n"))
    for name in ("contigs.fna", "data/contigs.fna.gz"):
        text = f">c\n{'ACGT' * 100}\n".encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder / 'spotESM/.venv/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "workflow_scripts"),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "MPLBACKEND": "agg",
    }


def test_every_block_is_known() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python", "yaml"}
    lines = [line for _, line in LINES]
    assert [line for line in (*NOT_HERE, *DRY) if line not in lines] == []
    assert [start for start in NEEDS if not any(line.startswith(start) for line in lines)] == []


@pytest.mark.parametrize(("language", "line"), [as_param(*line) for line in LINES])
def test_it_works(folder: Path, environment: dict[str, str], language: str, line: str) -> None:
    if language == "yaml":
        config = folder / ("my.yaml" if "model:" in line else "other.yaml")
        config.write_text(line)
        line = f"snakemake --snakefile spotESM/Snakefile --configfile {config.name}"
        if line in DRY:
            return  # it stands there, and is tried for itself
        line += " --dry-run"
    command = [sys.executable, "-c", line]
    if language != "python":
        command = ["sh", "-c", f"{line} {DRY.get(line, '')}"]
    run = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=ENOUGH_SECONDS,
    )
    assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
