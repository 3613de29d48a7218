"""Broken machines, and which failures are tried again: through the workflow."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from preload import NO_LOCKS, preload
from snakemake_runs import snakemake, write_config
from spotesm.weights.manifest import Weights

RUN = ("--cores", "2", "--resources", "gpu=1", "--configfile", "my.yaml")


@pytest.fixture(autouse=True)
def config(folder: Path) -> None:
    (folder / "in.fasta").write_text(">a\nMKV\n>b\nMKL\n>c\nMKI\n")
    write_config(folder, datasets={"d": "in.fasta"}, shards=1)


def events(folder: Path) -> list[str]:
    journal = folder / "results/d/checkpoints/1-of-1/journal.jsonl"
    return [json.loads(line)["event"] for line in journal.open()]


def last_block(output: str) -> str:
    assert "Traceback" not in output
    return output[output.rindex("spotESM could not finish:") :]


def test_an_error_of_the_user_is_tried_once_in_a_run(folder: Path) -> None:
    manifest = folder / "resources/weights/untrained/esm2_t6_8M_UR50D.json"
    whole = Weights.read(manifest)
    manifest.unlink()
    dataclasses.replace(whole, sha256="0" * 64).write(manifest)
    output = snakemake(folder, *RUN, "--retries", "1").stdout
    assert output.count("Trying to restart job") == 1
    assert events(folder) == ["start", "failed"]
    assert "not the weights that fetch_weights wrote down" in last_block(output)
    assert "in embed_shard, shard 1-of-1 of d [generic]" in last_block(output)
    whole.write(manifest)
    mended = snakemake(folder, *RUN, "--retries", "1", "--until", "embed_shard")
    assert mended.returncode == 0, mended.stdout
    assert events(folder) == ["start", "failed", "start", "completed"]
    assert not list(folder.rglob("*.failed.json"))


def test_what_may_pass_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth write is the first attempt's part; the second attempt writes fewer files."""
    assert snakemake(folder, *RUN, "--until", "split_fasta").returncode == 0
    monkeypatch.setenv("SPOTESM_FAULTS", "disk_full@4")
    run = snakemake(folder, *RUN, "--until", "embed_shard")
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("Trying to restart job") == 1
    assert "part-00001" in run.stdout
    assert "the disk is full; free some space" in run.stdout
    assert events(folder) == ["start", "failed", "start", "completed"]


def test_without_locks_the_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in preload(folder, NO_LOCKS).items():
        monkeypatch.setenv(name, value)
    block = last_block(snakemake(folder, *RUN, "--retries", "0").stdout)
    assert "results/d/checkpoints/1-of-1: its file system has no locks" in block
    assert "set checkpoint: dir to a folder on another one" in block


def test_a_broken_driver_in_a_locale_of_ascii(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = folder / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho der Treiber schläft\nexit 9\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    run = snakemake(folder, *RUN, "--retries", "0", "--until", "embed_shard")
    assert run.returncode == 0, run.stdout
    assert "Traceback" not in run.stdout
    log = (folder / "results/d/logs/embed_shard/1-of-1.log").read_text(encoding="utf-8")
    expected = "nvidia-smi fails (der Treiber schläft): computing on the CPU with 2 threads"
    assert f" WARNING {expected}\n" in log
