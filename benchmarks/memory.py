"""Does the memory of `embed_shard` grow with its shard? Peaks for 1,000 to 20,000 sequences.

    PYTHONPATH=workflow_scripts .venv/bin/python benchmarks/memory.py

Each shard is embedded by a process of its own: the 8M architecture, a part every 500 sequences, and
batches so small that the least shard has dozens too. (An allocator needs some batches of slightly
different sizes until its free blocks fit the next one; that is no matter of the shard's size.)
"""

import multiprocessing
import random
import resource
import tempfile
from pathlib import Path

from jobs import make_job
from proteins import random_protein
from spotesm.base.paths import UNTRAINED
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.shards.checkpoints import Thresholds
from spotesm.weights.fetch import fetch_weights

MODEL = "esm2_t6_8M_UR50D"
LONGEST = 60


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "weights.json")
        fetch_weights(MODEL, UNTRAINED, manifest)
        for precision in ("float32", "bfloat16"):
            for count in (1_000, 5_000, 20_000):
                peak = measure(count, precision, manifest, Path(folder, f"{precision}-{count}"))
                print(f"{precision}, {count:6,} sequences: {peak:.0f} MiB at most")


def measure(count: int, precision: str, manifest: Path, folder: Path) -> float:
    """Return the peak memory, MiB, of embedding `count` sequences."""
    folder.mkdir()
    rng = random.Random(0)
    lengths = (LONGEST if i < 100 else rng.randint(10, 30) for i in range(count))
    job = make_job(
        *(folder, (random_protein(rng, length) for length in lengths), manifest, MODEL, precision),
        tokens_per_batch=512,
        thresholds=Thresholds(sequences=500, seconds=300, bytes=1 << 30),
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(embed_and_measure, (job,))


def embed_and_measure(job: ShardJob) -> float:
    """Embed a shard in this process; its peak memory, MiB."""
    embed_shard(job)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
