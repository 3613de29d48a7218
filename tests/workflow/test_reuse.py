"""What was computed once is not computed again, through real runs; values compared."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import link_weights, snakemake, spotesm, write_config
from spotesm import Embeddings

Reference = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(23)
    return [(f"p{i}", random_sequence(rng, rng.randint(5, 60))) for i in range(16)]


def embed(folder: Path, *targets: str, **keys: object) -> None:
    config = write_config(folder, **keys)
    run = snakemake(folder, *targets, "--cores", "2", "--configfile", str(config))
    assert run.returncode == 0, run.stdout


def counts_of(folder: Path, dataset: str = "d") -> tuple[int, int, int]:
    summary = json.loads((folder / f"results/{dataset}/summary.json").read_text())
    return tuple(summary[name] for name in ("n_reused", "n_resumed", "n_computed"))


def rows_of(folder: Path, dataset: str = "d") -> dict[str, np.ndarray]:
    with Embeddings(folder / f"results/{dataset}/embeddings.h5", "mean/6") as embeddings:
        return dict(zip(embeddings.ids, embeddings[:], strict=True))


@pytest.fixture(scope="module")
def past(
    tmp_path_factory: pytest.TempPathFactory,
    weights_manifest: Path,
    records: list[tuple[str, str]],
) -> Path:
    """The folder of a run that had more outputs and layers than are asked for later.

    Of what it kept, the merged file alone is left for that.
    """
    folder = tmp_path_factory.mktemp("past")
    link_weights(folder, weights_manifest)
    write_fasta(folder / "d.fasta", records)
    keys = {"datasets": {"d": "d.fasta"}, "outputs": ["mean", "bos"], "layers": [0, -1]}
    embed(folder, "results/d/embeddings.h5", **keys, shards=1, checkpoint={"enabled": False})
    assert counts_of(folder) == (0, 0, 16)
    return folder


def test_a_dataset_s_own_past_is_used_unasked(
    tmp_path: Path, past: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """New records, fewer outputs. The FASTA is new by its content alone: its date is old.

    `spotesm plan` counts what is there.
    """
    shutil.copytree(past, tmp_path, symlinks=True, dirs_exist_ok=True)
    fresh = [("new0", "MKVLA"), *records[:9], ("new1", "MKVLAW"), *records[9:], ("new2", "MKW")]
    write_fasta(tmp_path / "d.fasta", fresh)
    os.utime(tmp_path / "d.fasta", (0, 0))
    untrained = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
    plan = spotesm(tmp_path, "plan", "d.fasta", *untrained)
    assert plan.returncode == 0, plan.stderr
    row = next(line.split() for line in plan.stdout.splitlines() if line.startswith("d "))
    assert row[1:6] == ["19", "0", "19", "16", str(sum(len(sequence) for _, sequence in fresh))]
    assert not (tmp_path / "results/d/config.yaml").exists()

    embed(tmp_path, datasets={"d": "d.fasta"}, shards=1, replace=True)
    assert counts_of(tmp_path) == (16, 0, 3)
    assert json.loads((tmp_path / "results/d/summary.json").read_text())["reused_from"] == {
        "results/d/embeddings.h5": 16
    }
    page = (tmp_path / "results/d/report.html").read_text()
    assert "16 records, from results/d/embeddings.h5" in page
    with h5py.File(tmp_path / "results/d/embeddings.h5") as file:
        assert file["reused"][:].tolist() == [0] + [1] * 9 + [0] + [1] * 7 + [0]
    before, rows = rows_of(past), rows_of(tmp_path)
    assert list(rows) == [name for name, _ in fresh]
    for name, sequence in fresh:
        expected = reference_residues(sequence).mean(0)
        np.testing.assert_allclose(rows[name], expected, rtol=0, atol=1e-5)
        assert name.startswith("new") or rows[name].tobytes() == before[name].tobytes()


def test_values_lie_on_disk_once(folder: Path, records: list[tuple[str, str]]) -> None:
    """A grown FASTA is computed from the merged file alone; then --notemp keeps the shards."""
    write_fasta(folder / "d.fasta", records)
    keys = {"datasets": {"d": "d.fasta"}, "outputs": ["mean", "residues"], "shards": 2}
    embed(folder, "results/d/embeddings.h5", **keys)
    sizes = {path: path.stat().st_size for path in folder.glob("results/d/**/*") if path.is_file()}
    merged = sizes.pop(folder / "results/d/embeddings.h5")
    fasta = sum(sizes.pop(path) for path in folder.glob("results/d/shards/*.fasta"))
    assert merged > sum(len(s) for _, s in records) * 320 * 4
    assert sum(sizes.values()) + fasta < 32_000

    grown = [("new", "MKVLAW"), *records]
    write_fasta(folder / "d.fasta", grown)
    before = rows_of(folder)
    embed(folder, "results/d/embeddings.h5", "--notemp", **keys)
    assert counts_of(folder) == (16, 0, 1)
    after = rows_of(folder)
    assert [after[name].tobytes() for name in before] == [row.tobytes() for row in before.values()]
    assert len(list(folder.glob("results/d/shards/*.h5"))) == 2
    assert len(list(folder.glob("results/d/checkpoints/*/finished.*.h5"))) == 2


def test_one_damaged_row_is_computed_anew(
    folder: Path, past: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """One bit of a value is another than what was computed; `spotesm verify` names the row."""
    shutil.copy(past / "results/d/embeddings.h5", folder / "old.h5")
    with h5py.File(folder / "old.h5", "r+") as file:
        row = file["mean/6"][7]
        row.view(np.uint32)[-1] ^= 1
        file["mean/6"][7] = row
    write_fasta(folder / "in.fasta", records)
    target = "results/d/embeddings.h5"
    embed(folder, target, datasets={"d": "in.fasta"}, reuse=["old.h5"], shards=1)
    assert counts_of(folder) == (15, 0, 1)
    log = (folder / "results/d/logs/embed_shard/1-of-1.log").read_text()
    assert "WARNING reuse: old.h5 has other values than were computed of 1 sequence" in log
    for place, (name, row) in enumerate(rows_of(folder).items()):
        if place == 7:
            expected = reference_residues(records[7][1]).mean(0)
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)
        else:
            assert row.tobytes() == rows_of(past)[name].tobytes()
    listed = ("--rejected", "results/d/rejected.tsv", "--rows", "0")
    assert spotesm(folder, "verify", target, "in.fasta", *listed).returncode == 0
    damaged = spotesm(folder, "verify", "old.h5", "in.fasta", *listed)
    assert damaged.returncode == 1
    assert damaged.stderr.strip() == (
        "old.h5, row 7: has other values of mean/6 than were computed: it is damaged; "
        "merge it again"
    )


def test_others_are_used_by_name_and_by_path(
    folder: Path, past: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """What a dataset of the same run gives is computed first; a damaged file is named."""
    rng = random.Random(24)
    new = [(f"n{i}", random_sequence(rng, 30 + i)) for i in range(5)]
    mixed = [*records[::2], *new]
    write_fasta(folder / "in.fasta", [*records, *new[:2]])
    write_fasta(folder / "mixed.fasta", mixed)
    shutil.copy(past / "results/d/embeddings.h5", folder / "old.h5")
    (folder / "cut.h5").write_bytes((folder / "old.h5").read_bytes()[:-500])
    datasets = {"mixed": "mixed.fasta", "d": "in.fasta"}
    targets = [f"results/{name}/embeddings.h5" for name in datasets]
    keys = {"reuse": ["cut.h5", "old.h5", "d"], "store_dtype": "float16", "shards": 1}
    embed(folder, *targets, datasets=datasets, **keys)

    assert [counts_of(folder, name) for name in ("d", "mixed")] == [(16, 0, 2), (10, 0, 3)]
    log = (folder / "results/d/logs/embed_shard/1-of-1.log").read_text()
    assert "WARNING reuse: cut.h5 cannot be read as HDF5, it is truncated or damaged" in log
    with h5py.File(folder / "results/mixed/embeddings.h5") as file:
        assert file["reused"][:].tolist() == [1] * 8 + [2] * 2 + [0] * 3
        assert file.attrs["reused_from"].tolist() == ["old.h5", "results/d/embeddings.h5"]
    before, rows, got = rows_of(past), rows_of(folder), rows_of(folder, "mixed")
    for name, _ in records:
        assert rows[name].tobytes() == before[name].astype(np.float16).tobytes()
    for name, _ in mixed[:10]:
        assert got[name].tobytes() == rows[name].tobytes()
    for name, sequence in new:
        mean = reference_residues(sequence).mean(0)
        np.testing.assert_allclose(got[name], mean, rtol=1e-3, atol=1e-3)


def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.fasta").write_text(">a\nMKV\n")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    config = write_config(tmp_path, datasets={"d": "in.fasta"}, reuse="foreign.h5")
    run = snakemake(tmp_path, "--dry-run", "--cores", "1", "--configfile", str(config))
    assert run.returncode != 0
    assert re.search(r"foreign.h5: not a file of spotESM's format", run.stdout), run.stdout
    assert "Traceback" not in run.stdout
