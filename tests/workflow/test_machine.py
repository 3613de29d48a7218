"""Broken and odd machines, and which failures are tried again: through the workflow."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from preload import FOREIGN_FILE_SYSTEM, NAMELESS, NO_LOCKS, preload
from snakemake_runs import snakemake, spotesm, write_config
from spotesm.merged.reader import Embeddings
from spotesm.weights.manifest import Weights

IN_2031 = 1_924_000_000
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
    """The fifth write is the first attempt's part; the second attempt writes fewer files."""
    assert snakemake(folder, *RUN, "--until", "split_fasta").returncode == 0
    monkeypatch.setenv("SPOTESM_FAULTS", "disk_full@5")
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
    assert "results/d/checkpoints: its file system has no locks" in block
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


def test_a_machine_where_all_is_odd(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference_residues: Callable[[str], np.ndarray],
) -> None:
    """No flush of folders, no modes, no links; no home, no name; traps, a date in the future."""
    for name in ("random.py", "h5py.py", "esm.py"):
        (folder / name).write_text(f"open({str(folder / 'executed')!r}, 'w').close()\n")
    (folder / "default").mkdir()
    os.utime(folder / "in.fasta", (IN_2031, IN_2031))
    odd = {**preload(folder, FOREIGN_FILE_SYSTEM, NAMELESS), "HOME": "/proc/nohome"}
    for name, value in {**odd, "SNAKEMAKE_PROFILE": "none", "PYTHONPATH": ""}.items():
        monkeypatch.setenv(name, value)
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    options = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
    run = spotesm(folder, "embed", "in.fasta", *options, XDG_CACHE_HOME="")
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert not (folder / "executed").exists()
    own = f"{folder}/.snakemake/spotesm/cache"
    assert run.stderr.startswith("/proc/nohome/.cache cannot be written (")
    assert f"downloaded weights too, go to {own}\n" in run.stderr
    assert run.stderr.count("cannot flush folders (Invalid argument)") == 1
    assert list(Path(own).glob("torch/hub/spotesm/*/prepared.json"))
    with Embeddings(folder / "results/in/embeddings.h5") as embeddings:
        for name, sequence in (("a", "MKV"), ("b", "MKL"), ("c", "MKI")):
            expected = reference_residues(sequence).mean(0)
            np.testing.assert_allclose(embeddings[name], expected, rtol=0, atol=1e-5)


def test_another_package_called_esm_ends_the_run_in_one_line(folder: Path) -> None:
    theirs = folder / "theirs/esm"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("raise SystemExit('it was imported')\n")
    options = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
    run = spotesm(folder, "embed", "in.fasta", *options, python_path=(theirs.parent,))
    assert run.returncode == 1
    assert run.stderr.count("\n") == 3  # the command, Snakemake's word on its profile, and the line
    assert f"another one, {theirs}; spotESM needs fair-esm" in run.stderr.splitlines()[-1]
    assert not (folder / "results/in/shards").exists()


def test_files_of_the_user_dated_in_the_future(folder: Path) -> None:
    """Contigs and labels, by links that are as new; and again, when nothing is to be done."""
    (folder / "plate.fna").write_text(f">c\n{'ATG' + 'GCT' * 40 + 'TAA'}\n")
    (folder / "labels.tsv").write_text("id\tlabel\nc|frame+1|1-123\tx\n")
    for name in ("plate.fna", "labels.tsv"):
        os.utime(folder / name, (IN_2031, IN_2031))
        (folder / f"link.{name}").symlink_to(name)
        os.utime(folder / f"link.{name}", (IN_2031, IN_2031), follow_symlinks=False)
    datasets = {"d": {"fasta": "link.plate.fna", "alphabet": "nucleotide", "min_orf": 20}}
    write_config(folder, datasets=datasets, shards=1, report={"labels": "link.labels.tsv"})
    run = snakemake(folder, *RUN)
    assert run.returncode == 0, run.stdout
    assert "clock skew" not in run.stdout
    with Embeddings(folder / "results/d/embeddings.h5") as embeddings:
        n = len(embeddings)
    assert n > 0
    again = snakemake(folder, *RUN)
    assert again.returncode == 0, again.stdout
    assert f"{n} rows" in again.stdout
    assert "Nothing to be done" in again.stdout
