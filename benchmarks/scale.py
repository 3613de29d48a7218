"""How far does it go: split, write, merge, look up and check millions of records, without a model.

    .venv/bin/python benchmarks/scale.py --records 10_000_000 --folder /scratch

A stand-in makes the vectors: numbers that follow from the digest of a sequence and mean nothing. So
nothing is said of the speed of a model here, and every row of the result can be checked. Each step
is a process of its own, of which time, CPU time and peak memory are printed; the merge is held
against `cp` and fsync of the same bytes in the same run.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from proteins import LENGTH_QUANTILES
from spotesm import Embeddings
from spotesm.base.paths import DatasetPaths
from spotesm.hdf5.writing import WrittenFile
from spotesm.merged.index import check_index
from spotesm.merged.integrity import check_values
from spotesm.merged.merge import MergeJob, merge_shards
from spotesm.request.inputs import choose_split
from spotesm.request.request import Request
from spotesm.request.results import Results
from spotesm.sequences.digests import as_bytes, from_bytes
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.shards.shard_writer import ShardWriter

MOST_RESIDUES = 1022
AMINO_ACIDS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
LAYER = 6
AT_ONCE = 1 << 16
LOOKED_UP = 100_000
STAND_IN = "stand-in"


def main() -> None:
    """Measure, step by step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, help="as many as the workflow would take if left out")
    parser.add_argument("--dimensions", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="in which it makes a temporary one of its own")
    options = parser.parse_args()
    print(
        f"{options.records:,} records, {options.dimensions} dimensions by a stand-in that follows "
        f"from the digest; on {os.cpu_count()} cores"
    )
    # A new one of its own: nobody's files are removed afterwards.
    with tempfile.TemporaryDirectory(prefix="spotesm-scale-", dir=options.folder) as folder:
        (Path(folder) / "shards").mkdir()
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Run each step, and print what it took."""
    n = options.records
    fasta = folder / "in.fasta"
    step("FASTA is made", write_fasta, fasta, n)
    options.shards = (
        options.shards or choose_split("auto", [str(fasta)], DatasetPaths(folder)).shards
    )
    print(f"  {fasta.stat().st_size / 1e9:.2f} GB, {options.shards} shards")
    took = step("split", split, folder, options.shards)
    print(f"  {n / took:,.0f} records/s of CPU time")
    step("shards are written", embed, folder, options)
    merged = step("merge", merge, folder, options.shards)
    copied = step("cp, fsync", copy, folder)
    size = (folder / "embeddings.h5").stat().st_size
    print(f"  {size / 1e9:.2f} GB: {size / merged / 1e6:,.0f} MB/s of CPU time; cp {copied:.1f} s")
    drop_cache(folder / "embeddings.h5")
    step("first look-up, cold", look_up, folder, 1)
    step("look-ups, warm", look_up, folder, 1000)
    step(f"{LOOKED_UP:,} ids at once", look_up_many, folder)
    step("index is checked", check, folder)
    step("checksums are compared", compare, folder)
    step("every row is checked", check_rows, folder, options.dimensions)


def step(name: str, work: Callable, *arguments: object) -> float:
    """Do a step in a process of its own; its CPU time in seconds."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work, arguments))
    process.start()
    sender.close()  # or the end of the process would not be the end of the pipe
    try:
        told = receiver.recv()
    except EOFError:
        raise SystemExit(f"{name}: failed") from None
    process.join()
    print(
        f"{name:24} {told['wall']:8.2f} s, CPU {told['cpu']:8.2f} s, peak {told['mib']:6.0f} MiB"
        f"{told['said']}",
        flush=True,
    )
    return told["cpu"]


def _run(sender: "multiprocessing.connection.Connection", work: Callable, arguments: tuple) -> None:
    wall, before = time.perf_counter(), _cpu()
    said = work(*arguments)
    sender.send(
        {
            "wall": time.perf_counter() - wall,
            "cpu": _cpu() - before,
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "said": f"  {said}" if said else "",
        }
    )


def _cpu() -> float:
    """CPU time of this process and of those it waited for, seconds."""
    times = os.times()
    return sum(times[:4])


# -- the steps -------------------------------------------------------------------------------------


def write_fasta(path: Path, n: int) -> None:
    """Write n records, of which one in ten repeats the sequence before it."""
    rng = np.random.default_rng(0)
    residues = AMINO_ACIDS[rng.integers(0, 20, 1 << 24, dtype=np.uint8)].tobytes()
    sequence = b""
    with open(path, "wb", buffering=1 << 20) as file:
        for first in range(0, n, AT_ONCE):
            size = min(AT_ONCE, n - first)
            places = rng.random(size) * (len(LENGTH_QUANTILES) - 1)
            lengths = np.interp(places, range(len(LENGTH_QUANTILES)), LENGTH_QUANTILES)
            lengths = lengths.clip(max=MOST_RESIDUES).astype(int).tolist()
            starts = rng.integers(0, len(residues) - MOST_RESIDUES, size).tolist()
            for i, start, length in zip(range(first, first + size), starts, lengths, strict=True):
                if i % 10 != 9:
                    sequence = residues[start : start + length]
                file.write(b">sp|P%08d|NAME%d a protein\n%s\n" % (i, i, sequence))


def split(folder: Path, shards: int) -> None:
    """Split as the workflow does."""
    split_fasta(
        [folder / "in.fasta"],
        shard_paths(folder, shards),
        folder / "shards/rejected.tsv",
        folder / "shards/split.json",
    )


def shard_paths(folder: Path, shards: int) -> list[Path]:
    """Return the FASTA of each shard."""
    return [folder / f"shards/{i}-of-{shards}.fasta" for i in range(1, shards + 1)]


def stand_in(digests: np.ndarray, dimensions: int) -> np.ndarray:
    """Return numbers in [0, 1), (k, dimensions) float32, that follow from digests (k,) DIGEST."""
    words = as_bytes(digests).copy().view(np.uint32).astype(np.uint64)
    factors = np.arange(1, 2 * dimensions, 2, dtype=np.uint64) * np.uint64(0x9E3779B1)
    mixed = words[:, np.arange(dimensions) % 4] * factors
    return ((mixed >> np.uint64(8)) % np.uint64(1 << 24)).astype(np.float32) / np.float32(1 << 24)


def embed(folder: Path, options: argparse.Namespace) -> None:
    """Write each shard's file as its job does, with the stand-in in place of the model."""
    long = LongSequences("window", 1022, 256, "reject")
    request = Request(
        *("esm2_t6_8M_UR50D", "packed", ("mean",), (LAYER,), "float32", "float32", long)
    )
    facts = dict.fromkeys(("n_computed", "n_resumed", "n_reused", "attempts"), 1)
    facts |= {"weights": STAND_IN, "embedding_dim": options.dimensions, "seconds": 0.0}
    for path in shard_paths(folder, options.shards):
        shard = Shard.index(path)
        with WrittenFile(path.with_suffix(".h5")) as file:
            writer = ShardWriter(file, shard, request, options.dimensions)
            for start in range(0, len(shard.digests), AT_ONCE):
                own = shard.digests[start : start + AT_ONCE]
                rows = {f"mean/{LAYER}": stand_in(own, options.dimensions)}
                writer.add(Results(own, [None] * len(own), np.ones(len(own), np.int32), rows))
            writer.finish(request.fingerprint(STAND_IN), facts)


def merge(folder: Path, shards: int) -> None:
    """Merge as the workflow does."""
    merge_shards(
        MergeJob(
            shards=[path.with_suffix(".h5") for path in shard_paths(folder, shards)],
            split=folder / "shards/split.json",
            split_rejected=folder / "shards/rejected.tsv",
            output=folder / "embeddings.h5",
            rejected=folder / "rejected.tsv",
            summary=folder / "summary.json",
            max_rejected=0.0,
            nucleotide=False,
            compression=None,
            config={},
        )
    )


def copy(folder: Path) -> None:
    """Copy the merged file, and flush it."""
    target = folder / "copy.h5"
    subprocess.run(["cp", str(folder / "embeddings.h5"), str(target)], check=True)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    target.unlink()


def drop_cache(path: Path) -> None:
    """Let the system forget what it has of a file in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_up(folder: Path, n: int) -> str:
    """Open the file and find ids, one by one; how long one took."""
    rng, counts = random.Random(n), json.loads((folder / "shards/split.json").read_text())
    start = time.perf_counter()
    with Embeddings(folder / "embeddings.h5") as embeddings:
        opened = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(n):
            row = rng.randrange(counts["n_records"])
            assert embeddings.rows_of(f"sp|P{row:08d}|NAME{row}") == [row]
    found = (time.perf_counter() - start) / n
    return f"opened in {1000 * opened:.1f} ms, found in {1000 * found:.2f} ms each"


def look_up_many(folder: Path) -> str:
    """Find many ids at once, in a file that is open."""
    rng, counts = random.Random(2), json.loads((folder / "shards/split.json").read_text())
    rows = [rng.randrange(counts["n_records"]) for _ in range(LOOKED_UP)]
    with Embeddings(folder / "embeddings.h5") as embeddings:
        ids = [f"sp|P{row:08d}|NAME{row}" for row in rows]
        start = time.perf_counter()
        assert embeddings.find_rows(ids).tolist() == rows
        return f"found in {time.perf_counter() - start:.2f} s"


def check(folder: Path) -> None:
    """Check the index as `spotesm verify` does."""
    with h5py.File(folder / "embeddings.h5") as file:
        check_index(file)


def compare(folder: Path) -> None:
    """Compare all values with their checksums as `spotesm verify` does."""
    with Embeddings(folder / "embeddings.h5") as embeddings:
        check_values(embeddings, lambda _: None)


def check_rows(folder: Path, dimensions: int) -> str:
    """Check that each row is the stand-in of its digest, and that ids are in order."""
    with h5py.File(folder / "embeddings.h5") as file:
        n = len(file["digests"])
        for start in range(0, n, AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            digests = from_bytes(file["digests"][rows])
            expected = stand_in(digests, dimensions)
            assert file[f"mean/{LAYER}"][rows].tobytes() == expected.tobytes(), start
            ids = file["sequence_ids"].asstr()[rows]
            assert [int(text[4:12]) for text in ids] == [*range(start, start + len(ids))]
    return f"{n:,} rows"


if __name__ == "__main__":
    main()
