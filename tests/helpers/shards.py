"""Shard jobs as real processes, to be stopped, killed and looked at."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from sequences import random_sequence, write_fasta
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.merged.merge import MergeJob, merge_shards
from spotesm.request.request import Request
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.shards.checkpoints import Thresholds
from spotesm.step import FAULTS, step

WAIT_SECONDS = 180.0
POLL_SECONDS = 0.001

# New processes inherit the imported libraries: twenty starts do not load torch twenty times.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["spotesm.embed.worker", "spotesm.embed.faults", "shards"])

# What a shard's file says of how the work went.
WORK = ("n_computed", "n_resumed", "n_reused", "attempts", "seconds")
OFTEN = Thresholds(sequences=5, seconds=3600, bytes=1 << 30)


def make_job(folder: Path, fasta: Path, weights_manifest: Path, **changes: object) -> ShardJob:
    """A job over all of `fasta` as one shard, with everything else below `folder`."""
    shard = folder / "1-of-1.fasta"
    split_fasta([fasta], [shard], folder / "rejected.tsv", folder / "split.json")
    job = ShardJob(
        fasta=shard,
        output=folder / "1-of-1.h5",
        weights=weights_manifest,
        checkpoints=folder / "checkpoints" / "1-of-1",
        request=make_request(),
        tokens_per_batch=100,
        thresholds=OFTEN,
    )
    return changed(job, **changes)


def make_shard(folder: Path, n: int, seed: int) -> Shard:
    """A shard of n records of different sequences, of 5 residues and more."""
    rng = random.Random(seed)
    records = [(f"p{i}", random_sequence(rng, 5 + i)) for i in range(n)]
    fasta = write_fasta(folder / "in", records)
    split_fasta([fasta], [folder / "s.fasta"], folder / "r.tsv", folder / "s.json")
    return Shard.index(folder / "s.fasta")


def make_merge(shards: list[Path], split: Path, out: Path, **changes: object) -> MergeJob:
    """A merge of shards, which were split into the folder `split`, into the folder `out`."""
    job = MergeJob(
        shards=shards,
        split=split / "split.json",
        split_rejected=split / "rejected.tsv",
        output=out / "embeddings.h5",
        rejected=out / "merged.tsv",
        summary=out / "summary.json",
        max_rejected=1.0,
        nucleotide=False,
        compression=None,
        config={},
    )
    return dataclasses.replace(job, **changes)


def make_request(**changes: object) -> Request:
    """What most tests ask for."""
    request = Request(
        model="esm2_t6_8M_UR50D",
        engine="packed",
        outputs=("mean",),
        layers=(-1,),
        store_dtype="float32",
        precision="auto",
        long_sequences=LongSequences("window", 40, 8, "reject"),
    )
    return dataclasses.replace(request, **changes)


def changed(job: ShardJob, **changes: object) -> ShardJob:
    """The job with other values in its own fields, or in those of its request."""
    names = {field.name for field in dataclasses.fields(Request)}
    asked = {name: changes.pop(name) for name in names & changes.keys()}
    return dataclasses.replace(job, request=dataclasses.replace(job.request, **asked), **changes)


def _work(job: ShardJob, log: str, environment: dict[str, str], file_size: int) -> None:
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    with step(log):
        embed_shard(job)


@contextlib.contextmanager
def running(
    job: ShardJob,
    faults: str = "",
    file_size: int = resource.RLIM_INFINITY,
    **environment: str,
) -> Iterator[multiprocessing.Process]:
    """Start the job in a process of its own; whatever happens, it is gone afterwards.

    `faults` are those of `spotesm.embed.faults`; no file may grow beyond `file_size` bytes.
    """
    given = {**environment, FAULTS: faults}
    process = _context.Process(target=_work, args=(job, str(log_of(job)), given, file_size))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run(job: ShardJob, faults: str = "", file_size: int = resource.RLIM_INFINITY) -> int:
    """Run the job to its end, in a process of its own; the exit code."""
    with running(job, faults, file_size) as process:
        process.join(WAIT_SECONDS)
        assert process.exitcode is not None, "the job did not end"
        return process.exitcode


def _merge(job: MergeJob, log: str, faults: str, file_size: int) -> None:
    os.environ[FAULTS] = faults
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    with step(log):
        merge_shards(job)


def run_merge(
    job: MergeJob, log: Path, faults: str = "", file_size: int = resource.RLIM_INFINITY
) -> int:
    """Merge shards in a process of its own; the exit code."""
    process = _context.Process(target=_merge, args=(job, str(log), faults, file_size))
    process.start()
    process.join(WAIT_SECONDS)
    assert process.exitcode is not None, "the merge did not end"
    return process.exitcode


def log_of(job: ShardJob) -> Path:
    return job.output.with_suffix(".log")


def wait_until(condition: Callable[[], bool], process: multiprocessing.Process) -> bool:
    """Wait until the condition holds; whether it did before the process ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if process.exitcode is not None:
            return condition()
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(POLL_SECONDS)
    return True


def stop(process: multiprocessing.Process, number: signal.Signals) -> int:
    """Send a signal to the process and wait for its end; the exit code."""
    os.kill(process.pid, number)
    process.join(WAIT_SECONDS)
    assert process.exitcode is not None, "the process did not end"
    return process.exitcode


def interrupt(job: ShardJob, times: int) -> int:
    """Stop and kill the job in turn, each time with a part more; how often, before it was done."""
    brake = job.output.with_name("brake")
    brake.write_text("0.05")
    for done in range(times):
        had = len(parts_of(job))
        with running(job, faults=f"brake={brake}") as process:
            if not wait_until(lambda had=had: len(parts_of(job)) > had, process):
                return done
            if done % 2:
                process.kill()
                process.join()
            else:
                assert stop(process, 15) == 143
    return times


def parts_of(job: ShardJob) -> list[Path]:
    return sorted(job.checkpoints.glob("part-*.pt"))


def journal_of(job: ShardJob) -> list[dict]:
    path = job.checkpoints / "journal.jsonl"
    return [json.loads(line) for line in path.open()] if path.exists() else []


def read_datasets(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of an HDF5 file, by name."""
    datasets = {}

    def collect(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item[:]

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return datasets


def assert_same_datasets(
    path: Path, expected: Path, tolerance: float = 0.0, but: tuple[str, ...] = ()
) -> None:
    """Compare two HDF5 files; bit for bit, or floats to `tolerance` of the largest.

    `but` names datasets that the first may have besides.
    """
    actual, wanted = read_datasets(path), read_datasets(expected)
    for name in but:
        actual.pop(name, None)
    assert actual.keys() == wanted.keys()
    for name, values in wanted.items():
        assert actual[name].dtype == values.dtype
        if tolerance and values.dtype.kind == "f":
            atol = tolerance * np.abs(values).max()
            np.testing.assert_allclose(actual[name], values, rtol=0, atol=atol)
        else:
            assert actual[name].shape == values.shape
            assert actual[name].tobytes() == values.tobytes() or (
                values.dtype == object and actual[name].tolist() == values.tolist()
            ), name
