"""From options to a config and a line: what is written, what is refused."""

import os
import sys
from pathlib import Path

import click
import pytest
import yaml
from models import write_fair_esm
from spotesm.base.failures import UserError
from spotesm.commands import workflow
from spotesm.commands.workflow import (
    find_profile,
    keep_config,
    make_configs,
    merge_configs,
    snakemake_line,
)
from spotesm.request.config import check_config
from spotesm.request.reuse import find_reused
from spotesm.weights.architectures import Architecture

NOTHING = {"model": None, "outputs": None, "layers": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with FASTA in it, and one beside it."""
    work = tmp_path / "work"
    (work / "more").mkdir(parents=True)
    for name in ("work/a.fasta", "work/b.v2.fa.gz", "work/more/c d.faa", "outside.fasta"):
        (tmp_path / name).write_text(">x\nMKV\n")
    monkeypatch.chdir(work)
    return work


def make(*fasta: str, directory: Path = Path(), **asked: object) -> dict[str, dict]:
    return make_configs(fasta, directory, **{**NOTHING, **asked})


@pytest.mark.usefixtures("folder")
def test_what_is_not_given_is_not_written() -> None:
    assert make("a.fasta") == {"a": {"datasets": {"a": "a.fasta"}}}


@pytest.mark.usefixtures("folder")
def test_all_that_is_given_is_written(tmp_path: Path) -> None:
    write_fair_esm(Architecture(1, 4, 1), tmp_path / "own.pt")
    configs = make(
        "a.fasta",
        "more",
        name="both",
        nucleotide=True,
        model="esm2_t6_8M_UR50D",
        weights="../own.pt",
        outputs=["mean", "residues"],
        layers=[0, -1],
    )
    assert configs == {
        "both": {
            "datasets": {"both": {"fasta": ["a.fasta", "more"], "alphabet": "nucleotide"}},
            "model": {"name": "esm2_t6_8M_UR50D", "weights": str(tmp_path / "own.pt")},
            "outputs": ["mean", "residues"],
            "layers": [0, -1],
        }
    }


@pytest.mark.usefixtures("folder")
def test_a_name_of_the_hub_is_no_path() -> None:
    (config,) = make("a.fasta", weights="hf:a/b@main", directory=Path("more")).values()
    assert config["model"]["weights"] == "hf:a/b@main"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs"),
    ],
)
def test_what_is_no_weights_file_is_refused_at_once(
    folder: Path, content: bytes, said: str
) -> None:
    (folder / "own.pt").write_bytes(content)
    with pytest.raises(UserError, match=f"model: weights: .*own.pt: {said}"):
        make("a.fasta", weights="own.pt")


@pytest.mark.usefixtures("folder")
def test_esm1_gets_the_engine_that_it_needs() -> None:
    (config,) = make("a.fasta", model="esm1b_t33_650M_UR50S", weights="untrained").values()
    assert config["model"]["engine"] == "reference"


@pytest.mark.parametrize(
    ("given", "directory", "seen"),
    [
        ("a.fasta", ".", "a.fasta"),
        ("./more/../a.fasta", ".", "a.fasta"),
        ("{here}/a.fasta", ".", "a.fasta"),
        ("more/c d.faa", ".", "more/c d.faa"),
        ("../outside.fasta", ".", "{above}/outside.fasta"),
        ("a.fasta", "..", "work/a.fasta"),
        ("a.fasta", "{above}", "work/a.fasta"),
        ("a.fasta", "more", "{here}/a.fasta"),
        ("more/c d.faa", "more", "c d.faa"),
        ("a.fasta", "not/yet", "{here}/a.fasta"),
    ],
)
def test_paths_are_as_the_workflow_sees_them(
    folder: Path, given: str, directory: str, seen: str
) -> None:
    places = {"here": folder, "above": folder.parent}
    configs = make(given.format(**places), directory=Path(directory.format(**places)), name="x")
    assert configs["x"]["datasets"]["x"] == seen.format(**places)


@pytest.mark.parametrize("directory", ["", "elsewhere"])
def test_earlier_results_are_named_by_dataset_or_path(folder: Path, directory: str) -> None:
    for place in (f"{directory}/results/old", "kept"):
        path = folder / place.lstrip("/") / "embeddings.h5"
        path.parent.mkdir(parents=True)
        path.touch()
    configs = make("a.fasta", directory=Path(directory), reuse=["kept/embeddings.h5", "old"])
    kept = str(folder / "kept/embeddings.h5") if directory else "kept/embeddings.h5"
    assert configs["a"]["reuse"] == [kept, "results/old/embeddings.h5"]
    (folder / "old").touch()  # a file of that name is what was typed
    assert make("a.fasta", reuse=["old"])["a"]["reuse"] == ["old"]
    with pytest.raises(UserError, match=r"reuse: .*/none: no such file, and no dataset"):
        make("a.fasta", reuse=["none"])


@pytest.mark.usefixtures("folder")
def test_datasets_of_the_same_run_are_reused_by_name() -> None:
    configs = make("a.fasta", "b.v2.fa.gz", each=True, directory=Path("new"), reuse=["a"])
    assert [config["reuse"] for config in configs.values()] == [["a"], ["a"]]
    merged = check_config(merge_configs(configs.values()))
    assert find_reused(merged) == {"a": [], "b-v2": ["results/a/embeddings.h5"]}


@pytest.mark.usefixtures("folder")
def test_each_file_is_a_dataset_with_the_same_settings() -> None:
    configs = make("a.fasta", "b.v2.fa.gz", "more", each=True, layers=[0])
    assert configs == {
        "a": {"datasets": {"a": "a.fasta"}, "layers": [0]},
        "b-v2": {"datasets": {"b-v2": "b.v2.fa.gz"}, "layers": [0]},
        "c-d": {"datasets": {"c-d": "more/c d.faa"}, "layers": [0]},
    }
    assert merge_configs(configs.values()) == {
        "datasets": {"a": "a.fasta", "b-v2": "b.v2.fa.gz", "c-d": "more/c d.faa"},
        "layers": [0],
    }


@pytest.mark.parametrize(
    ("fasta", "asked", "line"),
    [
        (["none.fasta"], {}, "no such file: .*/none.fasta"),
        (["a.fasta", "more"], {}, "Several FASTA: --name makes one"),
        (["a.fasta"], {"each": True, "name": "x"}, "leave out --name"),
        (["a.fasta", "none.fasta"], {"each": True}, "no such file: none.fasta"),
        (["a.fasta", "more/a.fa"], {"each": True}, "a.fasta and more/a.fa would both be"),
        (["a.fasta"], {"name": "a b"}, "'a b' cannot be a name"),
        (["a.fasta"], {"model": "esm2_t6_8M"}, "'esm2_t6_8M' is not one of"),
        (
            ["a.fasta"],
            {"weights": "pretraned"},
            "weights: no such file or folder: .*/pretraned",
        ),
        (["a.fasta"], {"outputs": ["men"]}, "'men' is not one of .*did you mean 'mean'"),
        (["a.fasta"], {"layers": [34]}, "layers: 34: esm2_t33_650M_UR50D has layers 0 to 33"),
        (["a.fasta"], {"layers": [1], "outputs": ["logits"]}, "layers: has no effect"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    folder: Path, fasta: list[str], asked: dict, line: str
) -> None:
    if "more/a.fa" in fasta:
        (folder / "more/a.fa").write_text(">x\nMKV\n")
    with pytest.raises((UserError, click.UsageError), match=line):
        make(*fasta, **asked)
    assert not (folder / "results").exists()


def test_a_config_is_kept_for_the_next_time(folder: Path, capsys: pytest.CaptureFixture) -> None:
    config = {"datasets": {"a": "a.fasta"}, "layers": [0]}
    path = keep_config(config, "a", folder)
    assert path == folder / "results/a/config.yaml"
    assert yaml.safe_load(path.read_text()) == config
    edited = path.read_text() + "# my remark\n"
    path.write_text(edited)
    assert keep_config(config, "a", folder) == path
    assert path.read_text() == edited
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("before", ["layers: [1]\n", "datasets: [", "\udcff"])
def test_another_config_is_kept_aside(
    folder: Path, capsys: pytest.CaptureFixture, before: str
) -> None:
    config = {"datasets": {"a": "a.fasta"}}
    path = folder / "results/a/config.yaml"
    path.parent.mkdir(parents=True)
    for number in (1, 2):
        path.write_bytes(before.encode(errors="surrogateescape"))
        keep_config(config, "a", folder)
        kept = path.with_name(f"config.{number}.yaml")
        assert kept.read_bytes() == before.encode(errors="surrogateescape")
        assert yaml.safe_load(path.read_text()) == config
        assert f"kept as {kept}" in capsys.readouterr().err


def test_the_line_has_what_follows_it_in_the_right_place(tmp_path: Path) -> None:
    configs = [Path("a.yaml"), Path("b.yaml")]
    line = snakemake_line(configs, tmp_path, ["--resources", "gpu=4"], quiet=True)
    assert line[:4] == [sys.executable, "-P", "-m", "snakemake"]
    assert line[4:-2] == [
        "--nolock",
        *("--configfile", "a.yaml", "b.yaml"),
        *("--logger", "spotesm"),
        *("--directory", str(tmp_path)),
        *("--resources", "gpu=4"),
    ]
    # Of one value, so that a target may follow it.
    assert line[-2] == "--snakefile"
    assert Path(line[-1]).is_file()
    assert snakemake_line([], Path(), [], quiet=False)[4:] == ["--nolock", *line[-2:]]


def test_a_profile_is_found_by_name_or_folder(folder: Path) -> None:
    repository = Path(__file__).parents[2]
    assert find_profile("default")[1] == str(repository / "profiles/default")
    own = folder / "mine"
    own.mkdir()
    (own / "config.yaml").write_text("cores: 1\n")
    assert find_profile("mine") == ["--workflow-profile", str(own)]


def test_a_profile_that_cannot_work_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"none of that name \(default, slurm\), and no nowhere/"):
        find_profile("nowhere")
    monkeypatch.setattr(workflow, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install -r .*profiles/slurm/requirements.txt"):
        find_profile("slurm")
    (folder / "config.yaml").write_text("executor: aws-batch\n")
    with pytest.raises(UserError, match=r"pip install snakemake-executor-plugin-aws-batch$"):
        find_profile(os.curdir)
