"""What a user sees when something is wrong: one block, no stack trace, an exit code."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from snakemake_runs import snakemake, write_config

RUN = ("--cores", "2", "--resources", "gpu=1", "--retries", "0", "--configfile", "my.yaml")


def block(output: str) -> str:
    """The block that the run ends with, without times."""
    assert "Traceback" not in output
    found = re.search(r"^spotESM could not finish:\n(?: +\S.*\n)+", output, re.MULTILINE)
    assert found, output
    return found[0]


def fail(folder: Path, **keys: object) -> str:
    write_config(folder, datasets={"d": "in.fasta"}, shards=1, **keys)
    run = snakemake(folder, *RUN)
    assert run.returncode != 0
    return run.stdout


@pytest.fixture(autouse=True)
def fasta(folder: Path) -> None:
    (folder / "in.fasta").write_text(">a\nMKV\n>b\nMKL\n")


def test_a_broken_input(folder: Path) -> None:
    (folder / "in.fasta").write_text("MKV\n")
    assert block(fail(folder)) == (
        "spotESM could not finish:\n"
        "  in.fasta, line 1: not FASTA; the first line with text must begin with '>'\n"
        "    in split_fasta of d\n"
        "    log: results/d/logs/split_fasta.log\n"
    )


def test_wrong_weights(folder: Path) -> None:
    (folder / "x.pt").write_text("<html>403 Forbidden</html>")
    said = fail(folder, model={"name": "esm2_t6_8M_UR50D", "weights": "x.pt"})
    assert re.search(r"config: model: weights: x\.pt: a web page, not weights: ", said)
    save_file({"x": torch.zeros(3)}, folder / "x.pt")
    said = block(fail(folder, model={"name": "esm2_t6_8M_UR50D", "weights": "x.pt"}))
    assert re.fullmatch(
        r"spotESM could not finish:\n"
        r"  x\.pt: holds x, which no ESM-1b, ESM-1v or ESM-2 has; it is another model, .*\n"
        r"    in fetch_weights\n"
        r"    log: results/logs/fetch_weights\.log\n",
        said,
    )


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing listens there
    said = block(fail(folder, model={"name": "esm2_t6_8M_UR50D", "weights": "pretrained"}))
    place = folder / "hub/hub/checkpoints/esm2_t6_8M_UR50D.pt"
    assert re.fullmatch(
        r"spotESM could not finish:\n"
        r"  cannot download https://\S+/models/esm2_t6_8M_UR50D\.pt \(.*\); "
        rf"fetch it elsewhere and put it at {place}, or set model: weights: to the path of a copy\n"
        r"    in fetch_weights\n"
        r"    log: results/logs/fetch_weights\.log\n",
        said,
    )


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOTESM_FAULTS", "disk_full@2")
    said = block(fail(folder))
    assert "the disk is full; free some space and run again; what is finished stays" in said


def test_a_failing_shard_is_named_with_its_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOTESM_FAULTS", "cuda_error=MKL")
    assert block(fail(folder)) == (
        "spotESM could not finish:\n"
        "  AcceleratorError: CUDA error: device-side assert (on demand)\n"
        "    in embed_shard, shard 1-of-1 of d [cuda_runtime]\n"
        "    log: results/d/logs/embed_shard/1-of-1.log\n"
    )


def test_a_foreign_shard_file(folder: Path) -> None:
    write_config(folder, datasets={"d": "in.fasta"}, shards=1)
    first = snakemake(folder, *RUN)
    assert first.returncode == 0, first.stdout
    shard = folder / "results/d/shards/1-of-1.h5"
    (folder / "results/d/embeddings.h5").unlink()
    shard.write_text("hello")
    run = snakemake(folder, *RUN)
    assert run.returncode != 0
    assert block(run.stdout) == (
        "spotESM could not finish:\n"
        "  results/d/shards/1-of-1.h5: not a whole shard file; delete it and run again: "
        "its results are kept among the checkpoints\n"
        "    in merge_shards of d\n"
        "    log: results/d/logs/merge_shards.log\n"
    )


def test_too_many_rejected_records(folder: Path) -> None:
    (folder / "in.fasta").write_text(">a\nMKV\n>b\nM*L\n")
    assert block(fail(folder)) == (
        "spotESM could not finish:\n"
        "  1 of 2 records were rejected (1 invalid_character), more than max_rejected: 0.01 "
        "allows. results/d/rejected.tsv lists them; the first: 1 'b' (invalid_character: '*' at "
        "residue 2). Mend the input, or raise max_rejected and run again\n"
        "    in split_fasta of d\n"
        "    log: results/d/logs/split_fasta.log\n"
    )


def test_too_many_rejected_records_after_the_split(folder: Path) -> None:
    (folder / "in.fasta").write_text(">a\nMKV\n>b\nMKLLAAWWRR\n".replace("LL", "L" * 20))
    long = {"policy": "reject", "window": 16}
    said = block(fail(folder, long_sequences=long))
    assert said == (
        "spotESM could not finish:\n"
        "  1 of 2 records were rejected (1 too_long), more than max_rejected: 0.01 allows. "
        "results/d/rejected.tsv lists them; the first: 1 'b' (too_long: more than 16 residues). "
        "Mend the input, or raise max_rejected and run again: the embeddings stay\n"
        "    in merge_shards of d\n"
        "    log: results/d/logs/merge_shards.log\n"
    )
    assert "too_long" in (folder / "results/d/rejected.tsv").read_text()
    write_config(
        folder, datasets={"d": "in.fasta"}, shards=1, long_sequences=long, max_rejected=0.5
    )
    again = snakemake(folder, *RUN)
    assert again.returncode == 0, again.stdout
    assert "embed_shard" not in again.stdout
    assert (folder / "results/d/report.html").exists()
