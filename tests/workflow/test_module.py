"""The workflow as a module of another one: as the README has it, and as snakedeploy leaves it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from snakemake_runs import REPOSITORY, WAIT_SECONDS, write_config
from spotesm.base.paths import DatasetPaths

README = (REPOSITORY / "README.md").read_text()
(IN_README,) = re.findall(r"^module spotesm:\n.*?(?=^```)", README, re.MULTILINE | re.DOTALL)
# What snakedeploy 0.17.1 leaves, but for `snakefile:`, which it does not make the path of a clone.
DEPLOYED = """\
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


# declare spotESM as a module
module spotesm:
    snakefile:
        "spotESM/Snakefile"
    config:
        config


# use all rules from spotESM
use rule * from spotesm
"""
OWN_RULE = """
rule count:
    input:
        "results/my/embeddings.h5",
    output:
        "size.txt",
    shell:
        "wc -c < {input} > {output}"
"""
WEIGHTS = '"model": {"name": "esm2_t6_8M_UR50D", "weights": "untrained"}'


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("Snakefile", IN_README.replace("}", f", {WEIGHTS}}}", 1) + OWN_RULE),
        ("workflow/Snakefile", DEPLOYED + OWN_RULE),
    ],
    ids=["of the README", "of snakedeploy"],
)
def test_another_workflow_takes_embeddings_as_input(folder: Path, place: str, text: str) -> None:
    (folder / "my.fasta").write_text(">a\nMKV\n>b\nMKL\n")
    (folder / "config").mkdir()
    keys = {"datasets": "my.fasta", "checkpoint": {"dir": "scratch"}}
    write_config(folder, **keys).rename(folder / "config/config.yaml")
    snakefile = folder / place
    snakefile.parent.mkdir(exist_ok=True)
    snakefile.write_text(text.replace("spotESM/Snakefile", str(REPOSITORY / "Snakefile")))
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "size.txt"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert run.returncode == 0, run.stdout
    with h5py.File(folder / "results/my/embeddings.h5") as file:
        assert file["sequence_ids"].asstr()[:].tolist() == ["a", "b"]
    size = (folder / "results/my/embeddings.h5").stat().st_size
    assert int((folder / "size.txt").read_text()) == size
    where = folder / ("scratch/my" if "config.yaml" in text else "results/my/checkpoints")
    assert DatasetPaths.of("my", folder / "results").checkpoints == where
    assert (where / "1-of-1/journal.jsonl").exists()
