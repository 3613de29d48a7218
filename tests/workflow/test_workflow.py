"""Whole runs, from FASTA to HDF5, compared with fair-esm one sequence at a time."""

import csv
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from Bio.Seq import Seq
from sequences import random_sequence, write_fasta
from shards import assert_same_datasets
from snakemake_runs import interrupt_when, snakemake, write_config
from spotesm.merged.reader import Embeddings

FOUR_GPUS = ("--cores", "all", "--resources", "gpu=4")
# So small that each shard has many batches, and can be interrupted between them.
TOKENS_PER_BATCH = "embed_shard:tokens_per_batch=300"
SMALL_BATCHES = (*FOUR_GPUS, "--set-resources", TOKENS_PER_BATCH)
EACH_BATCH = {"sequences": 1}


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    """Proteins of 1 to 1,022 residues, most not long; sequences and ids come twice."""
    rng = random.Random(11)
    lengths = [1, 2, 1022, 1021] + [rng.randint(1, 150) for _ in range(20)]
    sequences = [random_sequence(rng, length) for length in lengths]
    records = [(f"p{i}", sequence) for i, sequence in enumerate(sequences)]
    records += [("p3", sequences[5]), ("twin", sequences[0]), ("twin", sequences[5])]
    rng.shuffle(records)
    return records


def prepare(folder: Path, records: list[tuple[str, str]], **keys: object) -> tuple[str, ...]:
    """Write records, some of them broken, as the dataset `d`; the arguments that embed it."""
    write_fasta(folder / "in.fasta", [*records, ("empty", ""), ("stop", "MK*V")])
    (folder / "labels.tsv").write_text("id\tlabel\np0\tone\n")
    keys |= {"max_rejected": 0.1, "report": {"labels": "labels.tsv"}}
    config = write_config(folder, datasets={"d": "in.fasta"}, **keys)
    return ("results/d/embeddings.h5", "--configfile", str(config))


def embed(folder: Path, *arguments: str) -> str:
    """Run to the end; Snakemake's output."""
    run = snakemake(folder, *arguments)
    assert run.returncode == 0, run.stdout
    return run.stdout


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "results/d/summary.json").read_text())


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]]
) -> tuple[Path, str]:
    """The folder of an unbroken run, and what Snakemake said."""
    folder = tmp_path_factory.mktemp("finished")
    _, *arguments = prepare(folder, records, shards=2)  # all there is, the report included
    return folder, embed(folder, *arguments, *SMALL_BATCHES)


def test_every_row_is_fair_esms(
    finished: tuple[Path, str],
    records: list[tuple[str, str]],
    reference_residues: Callable[[str], np.ndarray],
) -> None:
    with h5py.File(finished[0] / "results/d/embeddings.h5") as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [name for name, _ in records]
        assert file["lengths"][:].tolist() == [len(sequence) for _, sequence in records]
        expected = np.stack([reference_residues(sequence).mean(0) for _, sequence in records])
        np.testing.assert_allclose(file["embeddings"][:], expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(file["embeddings"][:], file["mean/6"][:])


def test_the_file_says_where_it_comes_from(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    manifest = json.loads(
        (folder / "resources/weights/untrained/esm2_t6_8M_UR50D.json").read_text()
    )
    with h5py.File(folder / "results/d/embeddings.h5") as file:
        attributes = dict(file.attrs)
    assert attributes["format"] == "spotesm"
    assert attributes["format_version"] == 1
    assert attributes["model"] == "esm2_t6_8M_UR50D"
    assert attributes["weights"] == "untrained"
    assert attributes["weights_sha256"] == manifest["sha256"]
    assert attributes["layers"].tolist() == [6]
    assert attributes["outputs"].tolist() == ["mean"]
    assert attributes["precision"] == "float32"
    assert json.loads(attributes["long_sequences"])["window"] == 1022
    assert not attributes["biologically_meaningful"]
    assert json.loads(attributes["config"])["shards"] == 2


def test_the_counts_add_up(finished: tuple[Path, str], records: list[tuple[str, str]]) -> None:
    summary = summary_of(finished[0])
    assert summary["n_records"] == len(records) + 2
    assert summary["n_embedded"] == len(records)
    assert summary["n_sequences"] == summary["n_computed"] == len({s for _, s in records})
    assert (summary["n_resumed"], summary["attempts"]) == (0, 2)
    assert summary["n_repeated_ids"] == 2
    with open(finished[0] / "results/d/rejected.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["ordinal"], row["id"], row["reason"]) for row in rows] == [
        (str(len(records)), "empty", "empty"),
        (str(len(records) + 1), "stop", "invalid_character"),
    ]


def test_untrained_weights_are_admitted(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert "mean nothing biologically" in output
    assert "mean nothing biologically" in (folder / "results/logs/fetch_weights.log").read_text()


def test_speed_and_checkpoint_settings_and_dates_recompute_nothing(
    finished: tuple[Path, str], records: list[tuple[str, str]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    checkpoint = {"preset": "viral", "dir": "elsewhere", "keep_parts": True, "force_restart": True}
    other_speed = prepare(tmp_path, records, shards=2, checkpoint=checkpoint)
    for name in ("in.fasta", "labels.tsv"):
        os.utime(tmp_path / name)
    assert "Nothing to be done" in embed(tmp_path, *other_speed, *FOUR_GPUS, "-n")
    other_numbers = prepare(tmp_path, records, shards=2, long_sequences={"window": 500})
    refused = snakemake(tmp_path, *other_numbers, *FOUR_GPUS, "-n")
    assert refused.returncode == 1
    assert "its long sequences went through as policy: window, window: 1022" in refused.stdout
    replaced = embed(tmp_path, *other_numbers, *FOUR_GPUS, "-n", "--config", "replace=true")
    assert "embed_shard" in replaced


def parts_in(checkpoints: Path) -> set[Path]:
    return set(checkpoints.glob("*-of-2/part-*.pt"))


@pytest.fixture
def release(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Until it is called, each pass takes a second: no shard ends between two looks."""
    path = folder / "brake"
    path.write_text("1")
    monkeypatch.setenv("SPOTESM_FAULTS", f"brake={path}")
    return lambda: monkeypatch.delenv("SPOTESM_FAULTS")


def test_an_interrupted_run_goes_on_by_the_same_command(
    folder: Path, records: list[tuple[str, str]], finished: tuple[Path, str], release: Callable
) -> None:
    command = (*prepare(folder, records, shards=2, checkpoint=EACH_BATCH), *SMALL_BATCHES)
    checkpoints = folder / "results/d/checkpoints"
    for number in (signal.SIGINT, signal.SIGKILL):  # SIGTERM: below
        before = parts_in(checkpoints)
        interrupt_when(folder, lambda old=before: parts_in(checkpoints) - old, number, *command)
        assert before < parts_in(checkpoints)
    release()
    embed(folder, *command)
    summary = summary_of(folder)
    assert summary["n_resumed"] >= 2
    assert summary["n_resumed"] + summary["n_computed"] == summary["n_sequences"]
    assert_same_datasets(*(where / "results/d/embeddings.h5" for where in (folder, finished[0])))


def test_other_budgets_jobs_and_shards_between_attempts(
    folder: Path, records: list[tuple[str, str]], finished: tuple[Path, str], release: Callable
) -> None:
    checkpoints = folder / "scratch/checkpoints/d"
    settings = {"checkpoint": {**EACH_BATCH, "dir": "scratch/checkpoints"}}
    config = prepare(folder, records, shards=2, **settings)
    two_jobs = ("--cores", "2", "--resources", "gpu=2", "--set-threads", "embed_shard=1")
    two_jobs += ("--set-resources", TOKENS_PER_BATCH)

    def both_began() -> bool:
        return len({part.parent for part in parts_in(checkpoints)}) == 2

    interrupt_when(folder, both_began, signal.SIGTERM, *config, *two_jobs)
    release()
    one_job = ("--cores", "1", "--set-resources", "embed_shard:tokens_per_batch=500")
    embed(folder, *prepare(folder, records, shards=1, **settings), *one_job)
    summary = summary_of(folder)
    assert summary["n_reused"] >= 2
    assert summary["n_reused"] + summary["n_computed"] == summary["n_sequences"]
    assert not (folder / "results/d/checkpoints").exists()
    results = (where / "results/d/embeddings.h5" for where in (folder, finished[0]))
    assert_same_datasets(*results, tolerance=1e-6, but=("reused",))


def test_contigs_become_rows_that_lead_back_to_them(
    folder: Path, reference_residues: Callable[[str], np.ndarray]
) -> None:
    rng = random.Random(12)
    contigs = {f"contig{i}": "".join(rng.choices("ACGT", k=600)) for i in range(3)}
    write_fasta(folder / "contigs.fna", list(contigs.items()))
    dataset = {"fasta": "contigs.fna", "alphabet": "nucleotide", "genetic_code": 11, "min_orf": 30}
    outputs = {"outputs": ["bos", "residues", "mean"], "layers": [3, -1], "compression": "lzf"}
    config = write_config(folder, datasets={"d": dataset}, shards=1, **outputs)
    embed(folder, "results/d/embeddings.h5", "--configfile", str(config), *FOUR_GPUS)

    with Embeddings(folder / "results/d/embeddings.h5", key="mean/6") as embeddings:
        assert len(embeddings) > 5
        orfs = {name: values[:] for name, values in embeddings.file["orfs"].items()}
        for row, identifier in enumerate(embeddings.ids):
            contig, frame = orfs["contigs"][row].decode(), orfs["frames"][row]
            start, end = orfs["starts"][row], orfs["ends"][row]
            assert identifier == f"{contig}|frame{frame:+d}|{start}-{end}"
            bases = Seq(contigs[contig][start - 1 : end])
            protein = str((bases if frame > 0 else bases.reverse_complement()).translate(11))
            expected = reference_residues(protein)
            np.testing.assert_allclose(embeddings.residues(row, 6), expected, rtol=0, atol=1e-5)
            np.testing.assert_allclose(embeddings[row], expected.mean(0), rtol=0, atol=1e-5)
        assert embeddings.file["embeddings"] == embeddings.file["bos/3"]
