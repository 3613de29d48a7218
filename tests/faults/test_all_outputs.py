"""All outputs at once: the same bits after kills, and never more memory than a batch needs."""

import random
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from sequences import embed_residues, random_sequence, write_fasta
from shards import (
    interrupt,
    make_job,
    make_merge,
    read_datasets,
    run,
)
from spotesm.embed.task import ShardJob
from spotesm.merged import merge as merging
from spotesm.merged import shard_rows
from spotesm.merged.merge import merge_shards
from spotesm.sequences.long_sequences import LongSequences
from spotesm.shards.checkpoints import Thresholds

N_KILLS = 6
ALL = ["mean", "bos", "residues", "logits", "contacts"]
ROOM = 64 << 20  # the first passes take some 40 of it for the products' own code and buffers


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert actual.keys() == expected.keys()
    for key, values in expected.items():
        assert actual[key].dtype == values.dtype
        assert actual[key].tolist() == values.tolist(), key


def merge(job: ShardJob) -> Path:
    folder = job.output.parent
    merge_shards(make_merge([job.output], folder, folder))
    return folder / "embeddings.h5"


def make(folder: Path, fasta: Path, manifest: Path, **changes: object) -> ShardJob:
    folder.mkdir()
    settings = {
        "outputs": ALL,
        "layers": [0, 3, -1],
        "store_dtype": "float16",
        "long_sequences": LongSequences("window", 24, 8, "reject"),
    }
    return make_job(folder, fasta, manifest, **{**settings, **changes})


def test_killed_again_and_again_all_outputs_stay_the_same(
    tmp_path: Path, weights_manifest: Path
) -> None:
    rng = random.Random(70)
    records = [(f"p{i}", random_sequence(rng, rng.randint(5, 50))) for i in range(60)]
    records += records[:5]  # repeated sequences share their values
    fasta = write_fasta(tmp_path / "in.fasta", records)
    unbroken = make(tmp_path / "unbroken", fasta, weights_manifest)
    assert run(unbroken) == 0
    job = make(tmp_path / "broken", fasta, weights_manifest)
    assert interrupt(job, N_KILLS) > 2
    assert run(job) == 0
    assert_same(read_datasets(merge(job)), read_datasets(merge(unbroken)))


def test_memory_is_bounded_by_a_batch_not_by_the_output(
    tmp_path: Path,
    weights_manifest: Path,
    fair_esm: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(71)
    records = [(f"p{i}", random_sequence(rng, rng.randint(280, 320))) for i in range(60)]
    job = make(
        tmp_path / "large",
        write_fasta(tmp_path / "in.fasta", records),
        weights_manifest,
        outputs=["residues"],
        layers=range(7),
        store_dtype="float32",
        tokens_per_batch=330,
        long_sequences=LongSequences("window", 1022, 256, "reject"),
        thresholds=Thresholds(sequences=1 << 40, seconds=3600, bytes=2 << 20),
    )
    assert run(job, faults=f"room={ROOM}") == 0
    for module in (merging, shard_rows):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4 << 20)
    monkeypatch.setattr(merging, "CHUNK_BYTES", 128 << 10)
    tracemalloc.start()
    path = merge(job)
    assert tracemalloc.get_traced_memory()[1] < ROOM
    tracemalloc.stop()
    with h5py.File(path) as file:
        assert sum(item.nbytes for name, item in file["residues"].items()) > 2 * ROOM
        offsets = file["residues/offsets"][:]
        assert np.diff(offsets).tolist() == [len(sequence) for _, sequence in records]
        for row in (0, 29, 59):
            got = file["residues/6"][offsets[row] : offsets[row + 1]]
            expected = embed_residues(fair_esm, records[row][1])
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_finished_shard_is_taken_up_again(tmp_path: Path, weights_manifest: Path) -> None:
    rng = random.Random(72)
    records = [(f"p{i}", random_sequence(rng, rng.randint(5, 36))) for i in range(12)]
    job = make(tmp_path / "job", write_fasta(tmp_path / "in.fasta", records), weights_manifest)
    assert run(job) == 0
    before = read_datasets(merge(job))
    job.output.unlink()  # as Snakemake does to what it takes for incomplete
    trace = tmp_path / "trace"
    assert run(job, faults=f"trace={trace}") == 0
    assert not trace.exists()
    assert_same(read_datasets(merge(job)), before)
