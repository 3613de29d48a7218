"""Every optional input and param of every rule, once through Snakemake, values compared."""

import os
import random
import re
import shutil
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
MODEL = "esm2_t6_8M_UR50D"
Reference = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(17)
    lengths = [130, 59, 60, 61, 1, 20, 33, 47, 150, 8]
    return [(f"sp|P{i}|X", random_sequence(rng, length)) for i, length in enumerate(lengths)]


def embed(folder: Path, records: list[tuple[str, str]], **keys: object) -> str:
    write_fasta(folder / "in.fasta", records)
    config = write_config(folder, datasets={"d": "in.fasta"}, **keys)
    run = snakemake(folder, *ONE, str(config))
    assert run.returncode == 0, run.stdout
    return run.stdout


def assert_rows(folder: Path, expected: dict[str, np.ndarray]) -> None:
    with Embeddings(folder / "results/d/embeddings.h5") as embeddings:
        assert embeddings.ids == list(expected)
        rows = np.stack(list(expected.values()))
        np.testing.assert_allclose(embeddings[:], rows, rtol=0, atol=1e-5)


def test_truncated_compressed_labelled_with_checkpoints_elsewhere(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    name = "it's [1] é"
    labels = "id\tlabel\n" + "".join(f"{i}\tgroup {i == 'P0'}\n" for i, _ in records)
    (folder / f"{name}.tsv").write_text(labels)
    embed(
        folder,
        records,
        long_sequences={"policy": "truncate", "window": WINDOW},
        compression="gzip",
        report={"labels": f"{name}.tsv"},
        checkpoint={"dir": name, "keep_parts": True, "preset": "viral", "seconds": 7},
        shards=2,
    )
    assert_rows(folder, {i: reference_residues(s[:WINDOW]).mean(0) for i, s in records})
    with h5py.File(folder / "results/d/embeddings.h5") as file:
        assert file["mean/6"].compression == "gzip"
    assert len(list((folder / name / "d").glob("*-of-2/part-*.pt"))) == 2
    assert not (folder / "results/d/checkpoints").exists()
    assert "group False" in (folder / "results/d/report.html").read_text()


def test_whole_without_checkpoints(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """By weights of one's own: the same numbers, in a file of fair-esm."""
    small = ARCHITECTURES[MODEL]
    write_fair_esm(small, folder / "mine.pt", untrained_source(small))
    embed(
        folder,
        records,
        model={"name": MODEL, "weights": "mine.pt"},
        long_sequences={"policy": "whole", "out_of_memory": "smaller_windows"},
        compression="lzf",
        checkpoint={"enabled": False},
        store_dtype="float16",
    )
    with Embeddings(folder / "results/d/embeddings.h5") as embeddings:
        rows = np.stack([reference_residues(sequence).mean(0) for _, sequence in records])
        assert embeddings[:].dtype == np.float16
        np.testing.assert_allclose(embeddings[:], rows.astype(np.float16), rtol=1e-3, atol=1e-3)
    assert not list(folder.rglob("part-*.pt"))


def test_rejected_when_long_and_forced_to_start_again(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    keys = {"long_sequences": {"policy": "reject", "window": WINDOW}, "max_rejected": 0.5}
    embed(folder, records, **keys, checkpoint={"keep_parts": True})
    fit = {i: reference_residues(s).mean(0) for i, s in records if len(s) <= WINDOW}
    assert_rows(folder, fit)
    rejected = (folder / "results/d/rejected.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1:4] for line in rejected] == [
        [i, "embed", "too_long"] for i, s in records if len(s) > WINDOW
    ]
    for name in ("shards/1-of-1.h5", "embeddings.h5", "report.html"):
        (folder / "results/d" / name).unlink()
    output = embed(folder, records, **keys, checkpoint={"force_restart": True})
    assert "forced restart: checkpoints of earlier runs are ignored" in output
    assert_rows(folder, fit)


# -- inputs are known by content -------------------------------------------------------------------


def run_again(folder: Path) -> str:
    run = snakemake(folder, *ONE, str(folder / "my.yaml"))
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_a_swapped_file_is_noticed_whatever_its_date_and_a_touched_one_is_no_news(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    (folder / "labels.tsv").write_text("id\tlabel\nsp|P1|X\tone\n")
    embed(folder, records, report={"labels": "labels.tsv"})
    for path in (folder / "in.fasta", folder / "labels.tsv"):
        os.utime(path)
    assert "Nothing to be done" in run_again(folder)

    other = [(i, s[::-1]) for i, s in records]
    write_fasta(folder / "other.fasta", other)
    os.utime(folder / "other.fasta", (0, 0))
    shutil.copy2(folder / "other.fasta", folder / "in.fasta")
    run_again(folder)
    assert_rows(folder, {i: reference_residues(s).mean(0) for i, s in other})

    (folder / "labels.tsv").write_text("id\tlabel\nsp|P1|X\tanother\n")
    os.utime(folder / "labels.tsv", (0, 0))
    output = run_again(folder)
    assert re.search(r"^report_dataset +1$", output, re.MULTILINE)
    assert not re.search(r"^(embed_shard|split_fasta|merge_shards) ", output, re.MULTILINE)
    assert "another" in (folder / "results/d/report.html").read_text()


def test_a_folder_and_a_pattern_are_datasets(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    (folder / "my data").mkdir()
    write_fasta(folder / "my data/b.fasta", records[:4])
    write_fasta(folder / "my data/a.fa", records[4:])
    datasets = {"folder": "my data", "pattern": "my data/*.f*"}
    config = write_config(folder, datasets=datasets)
    run = snakemake(folder, *ONE, str(config))
    assert run.returncode == 0, run.stdout
    expected = np.stack([reference_residues(s).mean(0) for _, s in records[4:] + records[:4]])
    for name in datasets:
        with Embeddings(folder / f"results/{name}/embeddings.h5") as embeddings:
            assert embeddings.ids == [i for i, _ in records[4:] + records[:4]]
            np.testing.assert_allclose(embeddings[:], expected, rtol=0, atol=1e-5)
