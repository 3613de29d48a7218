"""What one device could not do, and what all must do in the same way: through real runs."""

import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, write_config
from spotesm import Embeddings
from spotesm.hdf5.unfit import read_devices

MOTIF = "WWCWW"
RESULT = "results/d/embeddings.h5"


@pytest.fixture
def records(folder: Path) -> list[tuple[str, str]]:
    rng = random.Random(37)
    records = [(f"p{i}", random_sequence(rng, rng.randint(10, 40))) for i in range(7)]
    records[3] = ("p3", f"MK{MOTIF}AL")
    write_fasta(folder / "in.fasta", records)
    return records


def embed(folder: Path, *arguments: str, **keys: object) -> tuple[int, str]:
    config = write_config(folder, datasets={"d": "in.fasta"}, shards=1, max_rejected=0.5, **keys)
    target = (RESULT, "--cores", "2", "--retries", "1", "--configfile", str(config))
    run = snakemake(folder, *target, *arguments)
    return run.returncode, run.stdout


@contextmanager
def less_memory() -> Iterator[int]:
    """A machine that has less of it, by a limit of its processes; how much, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = psutil.virtual_memory().total // 2
    resource.setrlimit(resource.RLIMIT_DATA, (room, before[1]))
    try:
        yield room
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_what_did_not_fit_is_tried_where_there_is_more_room(
    folder: Path,
    records: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    reference_residues: Callable[[str], np.ndarray],
) -> None:
    monkeypatch.setenv("SPOTESM_FAULTS", f"out_of_memory={MOTIF}")
    with less_memory() as room:
        assert embed(folder)[0] == 0
    with h5py.File(folder / RESULT) as file:
        (device,) = read_devices(file.attrs)
        assert (device.name, device.precision) == ("CPU", "float32")
        assert device.memory <= room
        before = file["mean/6"][:]
    line = (folder / "results/d/rejected.tsv").read_text().splitlines()[1]
    assert line == f"3\tp3\tembed\tout_of_memory\tdoes not fit on the device, even alone ({device})"

    monkeypatch.setenv("SPOTESM_FAULTS", "")
    assert embed(folder, "--forcerun", "embed_shard")[0] == 0
    journal = folder / "results/d/checkpoints/1-of-1/journal.jsonl"
    ends = [json.loads(text) for text in journal.read_text().splitlines()]
    assert [end["computed"] for end in ends if end["event"] == "completed"] == [7, 1]
    with Embeddings(folder / RESULT, "mean/6") as got:
        assert read_devices(got.attributes) == []
        assert got.ids == [name for name, _ in records]
        assert np.delete(got[:], 3, axis=0).tobytes() == before.tobytes()
        expected = reference_residues(records[3][1]).mean(0)
        np.testing.assert_allclose(got[3], expected, rtol=0, atol=1e-5)


def test_a_node_without_its_gpu_computes_nothing(
    folder: Path,
    records: list[tuple[str, str]],
    reference_residues: Callable[[str], np.ndarray],
) -> None:
    """Other shards went through a GPU; or one did, of which a part is left."""
    part = folder / "results/d/checkpoints/2-of-2/part-00001.0.pt"
    part.parent.mkdir(parents=True)
    part.touch()
    note = {"precision": "float16", "decided_by": "node7 (NVIDIA H200)", "run": "an earlier one"}
    (folder / "results/d/precision.json").write_text(json.dumps(note))
    code, output = embed(folder)
    assert code != 0
    assert "Traceback" not in output
    assert "precision: auto is float16 for d, as node7 (NVIDIA H200) has it, but " in output
    assert "set precision: float32" in output
    assert not (folder / "results/d/checkpoints/1-of-1").exists()
    assert not (folder / "results/d/shards/1-of-1.h5").exists()

    code, output = embed(folder, precision="float32")
    assert code == 0, output
    assert json.loads((folder / "results/d/precision.json").read_text()) == note
    with Embeddings(folder / RESULT, "mean/6") as got:
        for row, (_, sequence) in zip(got[:], records, strict=True):
            np.testing.assert_allclose(row, reference_residues(sequence).mean(0), rtol=0, atol=1e-5)
