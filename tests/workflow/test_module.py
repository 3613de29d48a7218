"""The workflow as a module of another one: as the README has it, and as snakedeploy leaves it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from snakemake_runs import REPOSITORY, WAIT_SECONDS, write_config
from spotesm.base.paths import DatasetPaths

README = (REPOSITORY / "README.md").read_text()
(IN_README,) = re.findall(r"^module spotesm:\n.*?(?=^```)", README, re.MULTILINE | re.DOTALL)
(EDIT,) = re.findall(r'replace `(".*?")` by\s`(".*?")`', README)
URL = "https://github.com/me/spotESM"
# What snakedeploy 0.17.1 leaves.
DEPLOYED = """\
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


# declare SOURCE as a module
module spotESM:
    snakefile:
        DECLARATION
    config:
        config


# use all rules from SOURCE
use rule * from spotESM
"""
OF_CLONE = DEPLOYED.replace("SOURCE", "spotESM").replace("DECLARATION", '"Snakefile"')
OF_URL = DEPLOYED.replace("SOURCE", URL).replace(
    "DECLARATION", 'github("me/spotESM", path="Snakefile", branch="main")'
)
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


@pytest.fixture
def clone(folder: Path) -> Path:
    """A clone in the folder."""
    clone = folder / "spotESM"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("rules", "workflow_scripts", "envs", "profiles"):
        shutil.copytree(REPOSITORY / name, clone / name, ignore=ignored)
    for name in ("Snakefile", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone)
    git = ["git", "-C", str(clone), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["commit", "--quiet", "--message=all"],
    ):
        subprocess.run([*git, *command], check=True)
    return clone


def run(folder: Path, clone: Path, *command: str, library: str = "") -> None:
    """Run something in the folder where the clone stands for what the URL names."""
    environment = {
        **os.environ,
        "PYTHONPATH": library,
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{clone}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("Snakefile", IN_README.replace("}", f", {WEIGHTS}}}", 1)),
        ("workflow/Snakefile", OF_CLONE.replace(*EDIT)),
        ("workflow/Snakefile", OF_URL),
    ],
    ids=["of the README", "of snakedeploy, from a clone", "of snakedeploy, from GitHub"],
)
def test_another_workflow_takes_embeddings_as_input(
    folder: Path, clone: Path, place: str, text: str
) -> None:
    (folder / "my.fasta").write_text(">a\nMKV\n>b\nMKL\n")
    (folder / "config").mkdir()
    keys = {"datasets": "my.fasta", "checkpoint": {"dir": "scratch"}}
    write_config(folder, **keys).rename(folder / "config/config.yaml")
    snakefile = folder / place
    snakefile.parent.mkdir(exist_ok=True)
    snakefile.write_text(text + OWN_RULE)
    # It lies beside the rules, but for those from GitHub, which take what is installed.
    library = str(clone / "workflow_scripts") if text == OF_URL else ""
    run(folder, clone, "-m", "snakemake", "--cores", "2", "size.txt", library=library)
    with h5py.File(folder / "results/my/embeddings.h5") as file:
        assert file["sequence_ids"].asstr()[:].tolist() == ["a", "b"]
    size = (folder / "results/my/embeddings.h5").stat().st_size
    assert int((folder / "size.txt").read_text()) == size
    where = folder / ("scratch/my" if "config.yaml" in text else "results/my/checkpoints")
    assert DatasetPaths.of("my", folder / "results").checkpoints == where
    assert (where / "1-of-1/journal.jsonl").exists()


@pytest.mark.parametrize(("source", "left"), [("spotESM", OF_CLONE), (URL, OF_URL)])
def test_snakedeploy_leaves_these(folder: Path, clone: Path, source: str, left: str) -> None:
    pytest.importorskip("snakedeploy", reason="snakedeploy is missing")
    run(folder, clone, "-m", "snakedeploy.client", "deploy-workflow", source, ".", "--branch=main")
    lines = (folder / "workflow/Snakefile").read_text().splitlines()
    assert [line.rstrip() for line in lines] == left.splitlines()
    assert (folder / "config/config.yaml").read_text() == ""
    assert (folder / "profiles/default/config.yaml").is_file()
