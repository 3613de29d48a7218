"""Each dataset has shards by its own size, and new ones when that is another."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sequences import random_sequence
from snakemake_runs import snakemake, spotesm, write_config
from spotesm import Embeddings

TARGETS = ("results/small/embeddings.h5", "results/large/embeddings.h5")
BYTES = 2 << 20  # of a shard


def write(path: Path, records: list[tuple[str, str]], size: int = 0) -> None:
    """A FASTA of at least some size, most of which are words behind the ids."""
    words = "x" * (size // len(records))
    path.write_text("".join(f">{name} {words}\n{text}\n" for name, text in records))


def embed(folder: Path) -> str:
    config = write_config(folder, datasets={"small": "small.fasta", "large": "large.fasta"})
    run = snakemake(folder, *TARGETS, "--cores", "2", "--configfile", str(config))
    assert run.returncode == 0, run.stdout
    return run.stdout


def counts_of(folder: Path, dataset: str) -> tuple[int, ...]:
    summary = json.loads((folder / f"results/{dataset}/summary.json").read_text())
    return tuple(summary[name] for name in ("n_reused", "n_resumed", "n_computed"))


def status_of(folder: Path) -> list[str]:
    rows = [line.split("\t") for line in spotesm(folder, "status").stdout.splitlines()]
    return [" ".join(row[:3]) for row in rows if "-of-" in row[1]]


def test_shards_follow_the_size_of_each_dataset(
    folder: Path, reference_residues: Callable[[str], np.ndarray]
) -> None:
    rng = random.Random(31)
    small, new, large = (
        [(f"{kind}{i}", random_sequence(rng, rng.randint(10, 40))) for i in range(4)]
        for kind in "snl"
    )
    write(folder / "small.fasta", small)
    write(folder / "large.fasta", large, BYTES)
    assert "as before" not in embed(folder)
    of_large = ["large 1-of-2 done", "large 2-of-2 done"]
    assert status_of(folder) == [*of_large, "small 1-of-1 done"]
    assert counts_of(folder, "small") == counts_of(folder, "large") == (0, 0, 4)
    before = Embeddings(folder / TARGETS[0], "mean/6")[:]

    write(folder / "small.fasta", [*new[:2], *small, *new[2:]], 4 * BYTES)
    assert "now in 4 shards, not 1 as before" in embed(folder)
    assert status_of(folder) == [*of_large, *(f"small {i}-of-4 done" for i in range(1, 5))]
    assert counts_of(folder, "small") == (4, 0, 4)
    with Embeddings(folder / TARGETS[0], "mean/6") as got:
        assert got.ids == [name for name, _ in (*new[:2], *small, *new[2:])]
        assert got[2:6].tobytes() == before.tobytes()
        for row, (_, sequence) in zip(got[:], [*new[:2], *small, *new[2:]], strict=True):
            np.testing.assert_allclose(row, reference_residues(sequence).mean(0), rtol=0, atol=1e-5)
