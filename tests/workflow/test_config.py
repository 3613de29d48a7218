"""The config as Snakemake gives it: where it comes from, and how a wrong one ends."""

import gzip
import re
from pathlib import Path

import pytest
from snakemake_runs import REPOSITORY, snakemake, write_config

DRY = ("--dry-run", "--cores", "1")


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKV\n")
    return path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("datasets: in.fasta\nshards: 2\nshards: 4\n", r"my.yaml, line 3: 'shards' is given twice"),
        (
            "datasets: 'größer {dataset}.fasta'\n",
            r"'gr\\xf6\\xdfer {dataset}.fasta': Snakemake takes braces and line ends in a path",
        ),
    ],
)
@pytest.mark.usefixtures("fasta")
def test_a_wrong_config_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    """In a locale that has ASCII alone, too."""
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    run = snakemake(tmp_path, "--cores", "1", "--configfile", "my.yaml")
    assert run.returncode != 0
    assert re.search(line, run.stdout), run.stdout
    assert "Traceback" not in run.stdout


def test_without_any_config_it_says_what_to_give(tmp_path: Path) -> None:
    run = snakemake(tmp_path, *DRY)
    assert run.returncode != 0
    assert "give it by --configfile, or by --config datasets=my.fasta" in run.stdout


@pytest.mark.parametrize("given", ["datasets=in.fasta", "datasets={mine: in.fasta}"])
@pytest.mark.usefixtures("fasta")
def test_datasets_on_the_command_line_are_the_only_ones(tmp_path: Path, given: str) -> None:
    (tmp_path / "config.yaml").write_text("datasets: {demo: no.fasta}\nlayers: 1\n")
    run = snakemake(tmp_path, *DRY, "--config", given)
    assert run.returncode == 0, run.stdout
    assert re.search(r"Getting the pretrained weights of esm2_t33_650M_UR50D", run.stdout)
    assert re.search(r"^embed_shard +1$", run.stdout, re.MULTILINE), run.stdout
    assert "demo" not in run.stdout


@pytest.mark.usefixtures("fasta")
def test_other_keys_on_the_command_line_change_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("datasets: {mine: in.fasta}\nshards: 2\n")
    run = snakemake(tmp_path, *DRY, "--config", "shards=3")
    assert re.search(r"^embed_shard +3$", run.stdout, re.MULTILINE), run.stdout


def test_own_datasets_do_not_drag_the_demo_along(tmp_path: Path) -> None:
    fasta = tmp_path / "in.fasta.gz"
    fasta.write_bytes(gzip.compress(b">a\nMKV\n"))
    config = write_config(tmp_path, datasets={"mine": [str(fasta)]}, shards=2)
    # In the repository nothing may be written, not even a lock.
    output = snakemake(REPOSITORY, *DRY, "--configfile", str(config), "--nolock").stdout
    assert "results/mine/embeddings.h5" in output
    assert "demo" not in output


def test_the_repository_runs_its_demo_with_four_gpus() -> None:
    arguments = ("--dry-run", "--forceall", "--nolock", "--cores", "all", "--resources", "gpu=4")
    run = snakemake(REPOSITORY, *arguments)
    assert run.returncode == 0
    assert "results/demo/report.html" in run.stdout
