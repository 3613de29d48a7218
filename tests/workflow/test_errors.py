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


def test_wrong_weights(folder: Path) -> None:
    save_file({"x": torch.zeros(3)}, folder / "x.pt")
    said = block(fail(folder, model={"name": "esm2_t6_8M_UR50D", "weights": "x.pt"}))
    assert re.fullmatch(
        r"spotESM could not finish:\n"
        r"  x\.pt: holds x, which no ESM-1b, ESM-1v or ESM-2 has; it is another model, .*\n"
        r"    in fetch_weights\n"
        r"    log: results/logs/fetch_weights\.log\n",
        said,
    )


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
