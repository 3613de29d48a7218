"""What was computed once is not computed again, through real runs; values compared."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, write_config
from spotesm import Embeddings

Reference = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(23)
    return [(f"p{i}", random_sequence(rng, rng.randint(5, 60))) for i in range(16)]


def embed(folder: Path, **keys: object) -> str:
    config = write_config(folder, **{"datasets": {"d": "in.fasta"}, "shards": 2, **keys})
    run = snakemake(folder, "--cores", "2", "--configfile", str(config))
    assert run.returncode == 0, run.stdout
    return run.stdout


def counts_of(folder: Path, dataset: str = "d") -> tuple[int, int, int]:
    summary = json.loads((folder / f"results/{dataset}/summary.json").read_text())
    return tuple(summary[name] for name in ("n_reused", "n_resumed", "n_computed"))


def rows_of(folder: Path, key: str, dataset: str = "d") -> dict[str, bytes]:
    with Embeddings(folder / f"results/{dataset}/embeddings.h5", key) as embeddings:
        return {i: row.tobytes() for i, row in zip(embeddings.ids, embeddings, strict=True)}


def test_a_dataset_s_own_past_is_used_unasked(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    write_fasta(folder / "in.fasta", records)
    embed(folder)
    before = rows_of(folder, "mean/6")

    embed(folder, shards=3)
    assert counts_of(folder) == (16, 0, 0)
    assert rows_of(folder, "mean/6") == before
    assert json.loads((folder / "results/d/summary.json").read_text())["reused_from"] == {
        "results/d/embeddings.h5": 16
    }
    page = (folder / "results/d/report.html").read_text()
    assert "16 records, from results/d/embeddings.h5" in page
    plan = snakemake(folder, "plan_run", "--cores", "1", "--configfile", "my.yaml")
    row = next(line.split() for line in plan.stdout.splitlines() if line.startswith("d "))
    assert row[3:5] == ["16", "16"]

    embed(folder, shards=3, outputs=["mean", "bos"], layers=[0, -1])
    assert counts_of(folder)[2] == 16
    assert rows_of(folder, "mean/6") == before
    with Embeddings(folder / "results/d/embeddings.h5", "bos/6") as embeddings:
        assert embeddings.file["reused"][:].tolist() == [1] * 16
        means = np.stack([reference_residues(sequence).mean(0) for _, sequence in records])
        np.testing.assert_allclose(embeddings.file["mean/6"][:], means, rtol=0, atol=1e-5)
        bos = {i: row.tobytes() for i, row in zip(embeddings.ids, embeddings, strict=True)}

    fresh = [("new0", "MKVLA"), *records[:9], ("new1", "MKVLAW"), *records[9:], ("new2", "MKW")]
    write_fasta(folder / "in.fasta", fresh)
    embed(folder, shards=3, outputs=["bos"])
    assert counts_of(folder)[2] == 3
    assert {i: row for i, row in rows_of(folder, "bos/6").items() if i in bos} == bos


def test_others_are_used_by_name_and_by_path(folder: Path, records: list[tuple[str, str]]) -> None:
    """A dataset of the same run comes first; a damaged file is named."""
    write_fasta(folder / "in.fasta", records)
    rng = random.Random(24)
    mixed = [*records[::2], *((f"n{i}", random_sequence(rng, 30 + i)) for i in range(5))]
    write_fasta(folder / "mixed.fasta", mixed)
    datasets = {"mixed": "mixed.fasta", "d": "in.fasta"}
    embed(folder, datasets=datasets, reuse=["d"])
    assert counts_of(folder) == (0, 0, 16)
    assert counts_of(folder, "mixed") == (8, 0, 5)
    expected = rows_of(folder, "mean/6")
    got = rows_of(folder, "mean/6", "mixed")
    assert [got[i] for i, _ in records[::2]] == [expected[i] for i, _ in records[::2]]
    with h5py.File(folder / "results/mixed/embeddings.h5") as file:
        assert file["reused"][:].tolist() == [1] * 8 + [0] * 5
        assert file.attrs["reused_from"].tolist() == ["results/d/embeddings.h5"]

    shutil.copy(folder / "results/d/embeddings.h5", folder / "old.h5")
    (folder / "cut.h5").write_bytes((folder / "old.h5").read_bytes()[:-500])
    embed(folder, datasets={"x": "in.fasta"}, reuse=["cut.h5", "old.h5"], store_dtype="float16")
    assert counts_of(folder, "x") == (16, 0, 0)
    assert rows_of(folder, "mean/6", "x") == {
        i: np.frombuffer(row, np.float32).astype(np.float16).tobytes()
        for i, row in expected.items()
    }
    log = (folder / "results/x/logs/embed_shard/1-of-2.log").read_text()
    assert "WARNING reuse: cut.h5 cannot be read as HDF5, it is truncated or damaged" in log


def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.fasta").write_text(">a\nMKV\n")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    config = write_config(tmp_path, datasets={"d": "in.fasta"}, reuse="foreign.h5")
    run = snakemake(tmp_path, "--dry-run", "--cores", "1", "--configfile", str(config))
    assert run.returncode != 0
    assert re.search(r"foreign.h5: not a file of spotESM's format", run.stdout), run.stdout
    assert "Traceback" not in run.stdout
