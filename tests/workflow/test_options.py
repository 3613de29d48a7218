"""Every optional input and param of every rule, once through Snakemake, values compared."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from models import write_fair_esm
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, write_config
from spotesm import Embeddings
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.untrained import untrained_source

ONE = ("--cores", "1", "--configfile")
WINDOW = 60
EMBEDDINGS = "results/d/embeddings.h5"
MODEL = "esm2_t6_8M_UR50D"
Reference = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(17)
    lengths = [130, 59, 60, 61, 1, 20, 33, 47, 150, 8]
    return [(f"sp|P{i}|X", random_sequence(rng, length)) for i, length in enumerate(lengths)]


def run(folder: Path, *targets: str, **keys: object) -> subprocess.CompletedProcess:
    config = write_config(folder, shards=1, **keys)
    return snakemake(folder, *targets, *ONE, str(config))


def embed(folder: Path, *targets: str, **keys: object) -> None:
    done = run(folder, *targets, **keys)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def two_files(folder: Path, records: list[tuple[str, str]]) -> None:
    (folder / "my data").mkdir()
    write_fasta(folder / "my data/b.fasta", records[4:])
    write_fasta(folder / "my data/a.fa", records[:4])


def assert_rows(folder: Path, expected: dict[str, np.ndarray]) -> None:
    with Embeddings(folder / EMBEDDINGS) as embeddings:
        assert embeddings.ids == list(expected)
        rows = np.stack(list(expected.values()))
        np.testing.assert_allclose(embeddings[:], rows, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("two_files")
def test_a_folder_truncated_compressed_labelled_with_checkpoints_elsewhere(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    name = "it's [1] é"
    labels = "id\tlabel\n" + "".join(f"{i}\tgroup {i == 'P0'}\n" for i, _ in records)
    (folder / f"{name}.tsv").write_text(labels)
    embed(
        folder,
        datasets={"d": "my data"},
        long_sequences={"policy": "truncate", "window": WINDOW},
        compression="gzip",
        report={"labels": f"{name}.tsv"},
        checkpoint={"dir": name, "keep_parts": True, "preset": "viral", "seconds": 7},
    )
    assert_rows(folder, {i: reference_residues(s[:WINDOW]).mean(0) for i, s in records})
    with h5py.File(folder / EMBEDDINGS) as file:
        assert file["mean/6"].compression == "gzip"
    assert len(list((folder / name / "d/1-of-1").glob("part-*.pt"))) == 1
    assert not (folder / "results/d/checkpoints").exists()
    assert "group False" in (folder / "results/d/report.html").read_text()


@pytest.mark.usefixtures("two_files")
def test_a_pattern_whole_without_checkpoints(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """By weights of one's own: the same numbers, in a file of fair-esm."""
    small = ARCHITECTURES[MODEL]
    write_fair_esm(small, folder / "mine.pt", untrained_source(small))
    embed(
        folder,
        EMBEDDINGS,
        datasets={"d": "my data/*.f*"},
        model={"name": MODEL, "weights": "mine.pt"},
        long_sequences={"policy": "whole", "out_of_memory": "smaller_windows"},
        compression="lzf",
        checkpoint={"enabled": False},
        store_dtype="float16",
    )
    with Embeddings(folder / EMBEDDINGS) as embeddings:
        assert embeddings.ids == [i for i, _ in records]
        rows = np.stack([reference_residues(sequence).mean(0) for _, sequence in records])
        assert embeddings[:].dtype == np.float16
        np.testing.assert_allclose(embeddings[:], rows.astype(np.float16), rtol=1e-3, atol=1e-3)
    assert not list(folder.rglob("part-*.pt"))


def test_rejected_when_long_and_allowed_to_be(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """Too many end the run at the merge, the embeddings stay; a foreign shard file is replaced.

    Their list is there, however often Snakemake tries the merge again.
    """
    write_fasta(folder / "in.fasta", records)
    keys = {"datasets": {"d": "in.fasta"}, "long_sequences": {"policy": "reject", "window": WINDOW}}
    of_merge = "\n    in merge_shards of d\n    log: results/d/logs/merge_shards.log\n"
    refused = run(folder, EMBEDDINGS, **keys)
    assert refused.returncode != 0
    assert (
        "spotESM could not finish:\n"
        "  3 of 10 records were rejected (3 too_long), more than max_rejected: 0.01 allows. "
        "results/d/rejected.tsv lists them; the first: 0 'sp|P0|X' (too_long: more than 60 "
        "residues); 3 'sp|P3|X' (too_long: more than 60 residues); 8 'sp|P8|X' (too_long: more "
        "than 60 residues). Mend the input, or raise max_rejected and run again: the embeddings "
        "stay" + of_merge
    ) in refused.stdout
    long = [[i, "embed", "too_long"] for i, s in records if len(s) > WINDOW]
    assert rejected_in(folder) == long

    allowed = run(folder, EMBEDDINGS, **keys, max_rejected=0.5)
    assert allowed.returncode == 0, allowed.stdout
    assert "embed_shard" not in allowed.stdout
    assert_rows(folder, {i: reference_residues(s).mean(0) for i, s in records if len(s) <= WINDOW})
    assert rejected_in(folder) == long

    (folder / EMBEDDINGS).unlink()
    (folder / "results/d/shards/1-of-1.h5").write_text("hello")
    foreign = run(folder, EMBEDDINGS, **keys, max_rejected=0.5)
    assert foreign.returncode == 0, foreign.stdout
    assert_rows(folder, {i: reference_residues(s).mean(0) for i, s in records if len(s) <= WINDOW})
    assert "Traceback" not in refused.stdout + foreign.stdout


def rejected_in(folder: Path) -> list[list[str]]:
    lines = (folder / "results/d/rejected.tsv").read_text().splitlines()[1:]
    return [line.split("\t")[1:4] for line in lines]
