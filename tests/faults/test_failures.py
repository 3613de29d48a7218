"""Each row of the failure contract, and faults of the host, on real processes."""

import os
import random
import resource
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from shards import (
    assert_same_datasets,
    changed,
    journal_of,
    log_of,
    make_merge,
    parts_of,
    read_datasets,
    run,
    run_merge,
    running,
    stop,
    wait_until,
)
from spotesm.base.durable import read_json, write_json
from spotesm.embed.task import ShardJob

N_SEQUENCES = 40
POISON = "WWCWW"
POISONED = 17
LONGEST = 18


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proteins of up to 24 residues, one with a motif that no other has, and a longest one."""
    rng = random.Random(12)
    sequences = [random_sequence(rng, rng.randint(1, 24)) for _ in range(N_SEQUENCES)]
    sequences = [sequence.replace(POISON, "AAAAA") for sequence in sequences]
    sequences[POISONED] = "MKV" + POISON + "ACDEF"
    sequences[LONGEST] = random_sequence(rng, 38)
    return write_fasta(
        tmp_path_factory.mktemp("input") / "in.fasta",
        [(f"p{i}", sequence) for i, sequence in enumerate(sequences)],
    )


def assert_one_line(job: ShardJob, text: str) -> None:
    log = log_of(job).read_text()
    assert text in log
    assert "Traceback" not in log


def assert_same_but(job: ShardJob, unbroken: ShardJob, rejected: int, reason: str) -> None:
    """One record is rejected for the reason; all others are as in the unbroken run."""
    actual, expected = read_datasets(job.output), read_datasets(unbroken.output)
    others = np.arange(N_SEQUENCES) != rejected
    reasons = [text.decode() for text in actual["sequences/reasons"]]
    assert reasons[rejected].startswith(reason)
    assert [text for place, text in enumerate(reasons) if text] == [reasons[rejected]]
    key = "sequences/mean/6"
    tolerance = 1e-6 * np.abs(expected[key]).max()
    np.testing.assert_allclose(actual[key][others], expected[key][others], rtol=0, atol=tolerance)
    for name in ("sequences/digests", "sequences/lengths", "records/sequence_ids"):
        assert actual[name].tolist() == expected[name].tolist()


def test_out_of_memory_halves_the_batch_and_is_remembered(
    job: ShardJob, unbroken: ShardJob
) -> None:
    with running(job, faults="out_of_memory@3") as process:
        assert wait_until(lambda: len(parts_of(job)) >= 3, process)
        assert stop(process, signal.SIGTERM) == 143
    assert read_json(job.checkpoints / "plan.json")["tokens_per_batch"] < 50
    assert run(job) == 0
    assert [entry["event"] for entry in journal_of(job)] == [
        "start",
        "stopped",
        "start",
        "completed",
    ]
    assert_same_datasets(job.output, unbroken.output, tolerance=1e-6)


def test_what_half_precision_cannot_do_is_computed_in_float32(
    job: ShardJob, unbroken: ShardJob
) -> None:
    job = changed(job, precision="bfloat16")
    assert run(job, faults=f"not_finite_in_half={POISON}") == 0
    actual, exact = (read_datasets(j.output)["sequences/mean/6"] for j in (job, unbroken))
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual[POISONED], exact[POISONED], rtol=0, atol=1e-5)
    assert "computing it in float32" in log_of(job).read_text()


def test_a_cuda_error_is_journalled_and_its_batch_run_one_by_one(
    job: ShardJob, unbroken: ShardJob
) -> None:
    assert run(job, faults="cuda_error@4") == 1
    failed = journal_of(job)[-1]
    assert (failed["event"], failed["type"], failed["attempt"]) == ("failed", "cuda_runtime", 1)
    assert (failed["token_budget"], failed["device"]) == (100, "cpu")
    assert len(failed["ids"]) == len(failed["digests"]) > 1
    with h5py.File(unbroken.output) as file:
        ids, own = file["records/sequence_ids"].asstr()[:], file["sequences/digests"][:]
        digests = {bytes(d).hex(): name for d, name in zip(own, ids, strict=True)}
    assert [digests[digest] for digest in failed["digests"]] == failed["ids"]
    assert run(job) == 0
    assert f"{len(failed['ids'])} sequences were in flight" in log_of(job).read_text()
    assert journal_of(job)[-1]["computed"] == N_SEQUENCES - failed["computed"]
    assert_same_datasets(job.output, unbroken.output, tolerance=1e-6)


def test_a_poisonous_sequence_is_isolated_and_rejected(job: ShardJob, unbroken: ShardJob) -> None:
    exit_codes = [run(job, faults=f"cuda_error={POISON}") for _ in range(3)]
    assert exit_codes == [1, 1, 0]
    assert_same_but(job, unbroken, POISONED, "cuda_runtime")
    failures = [entry for entry in journal_of(job) if entry["event"] == "failed"]
    assert failures[1]["ids"] == [f"p{POISONED}"]
    completed = journal_of(job)[-1]
    assert sum(e["computed"] for e in [*failures, completed]) == N_SEQUENCES - 1


def test_a_broken_gpu_is_not_blamed_on_sequences(job: ShardJob, unbroken: ShardJob) -> None:
    assert run(job, faults="cuda_error@4") == 1
    for _ in range(3):
        assert run(job, faults="cuda_error@1") == 1
        assert journal_of(job)[-1]["ids"] == []
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output, tolerance=1e-6)


def test_another_error_keeps_what_was_computed_and_quotes_the_journal(
    job: ShardJob, unbroken: ShardJob
) -> None:
    assert run(job, faults="generic_error@3") == 1
    assert journal_of(job)[-1]["type"] == "generic"
    computed = journal_of(job)[-1]["computed"]
    assert computed > 0
    assert run(job, faults="generic_error@1") == 1
    assert "attempt 1 had failed at" in log_of(job).read_text()
    assert "no room for this error" in log_of(job).read_text()
    assert run(job) == 0
    assert journal_of(job)[-1]["computed"] == N_SEQUENCES - computed
    assert_same_datasets(job.output, unbroken.output)


def test_a_full_disk_is_told_and_nothing_is_lost(job: ShardJob, unbroken: ShardJob) -> None:
    write = 5  # the 1st binds the directory, the 2nd is the plan, then come parts
    assert run(job, faults=f"disk_full@{write}") == 1
    assert_one_line(job, "the disk is full; free some space")
    assert not job.output.exists()
    assert not list(job.output.parent.glob(".*.tmp"))
    kept = len(parts_of(job))
    assert kept >= write - 3
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output)


@pytest.mark.parametrize("file_size", [3_000, 40_000])
def test_a_real_limit_on_files(job: ShardJob, unbroken: ShardJob, file_size: int) -> None:
    """The first is too small for a part, the second for the shard's HDF5 file."""
    assert run(job, file_size=file_size) == 1
    assert_one_line(job, "a file may not grow that large here")
    assert not job.output.exists()
    assert not list(job.checkpoints.glob(".*.tmp"))
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [("ro", "the file system is read-only"), ("size=64k", "the disk is full")],
)
def test_a_small_or_read_only_file_system(
    job: ShardJob, unbroken: ShardJob, options: str, message: str
) -> None:
    job.checkpoints.mkdir(parents=True)
    try:
        mount("-t", "tmpfs", "-o", options, "tmpfs", str(job.checkpoints))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        assert run(job) == 1
        assert_one_line(job, message)
        mount("-o", "remount,rw,size=10m", str(job.checkpoints))
        assert run(job) == 0
    finally:
        subprocess.run(["umount", str(job.checkpoints)], check=True)
    assert_same_datasets(job.output, unbroken.output)


def test_a_vanished_input(job: ShardJob) -> None:
    job.fasta.unlink()
    assert run(job) == 1
    assert_one_line(job, f"{job.fasta}: a file has vanished")


def test_a_clock_that_jumped_backward(job: ShardJob, unbroken: ShardJob) -> None:
    with running(job) as process:
        assert wait_until(lambda: len(parts_of(job)) >= 2, process)
        stop(process, signal.SIGKILL)
    for path in [*job.checkpoints.iterdir(), job.fasta]:  # left by a clock two years ahead
        os.utime(path, (path.stat().st_mtime + 6e7,) * 2)
    assert run(job) == 0
    assert journal_of(job)[-1]["computed"] < N_SEQUENCES
    assert_same_datasets(job.output, unbroken.output)


def test_a_stale_lock_stops_nobody(job: ShardJob, unbroken: ShardJob) -> None:
    """The file of a lock that a dead process, or another host, held."""
    job.checkpoints.mkdir(parents=True)
    (job.checkpoints / "lock").write_text("4711 on a node that is gone\n")
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output)


def test_parts_of_an_older_format_are_set_aside(job: ShardJob, unbroken: ShardJob) -> None:
    with running(job) as process:
        assert wait_until(lambda: len(parts_of(job)) >= 2, process)
        stop(process, signal.SIGKILL)
    bound = job.checkpoints / "fingerprint.json"
    write_json(bound, {**read_json(bound), "checkpoint_format": 0})
    old = parts_of(job)
    job = changed(job, keep_parts=True)
    assert run(job) == 0
    assert all((job.checkpoints / "set-aside" / part.name).exists() for part in old)
    assert "settings changed (checkpoint_format)" in log_of(job).read_text()
    assert_same_datasets(job.output, unbroken.output)


@pytest.mark.parametrize(
    ("faults", "file_size"),
    [
        ("disk_full@1", resource.RLIM_INFINITY),
        # In values, texts, the index, and in what HDF5 writes when it closes.
        *(("", size) for size in (1_000, 5_000, 20_000, 35_000, 40_000)),
    ],
)
def test_a_full_disk_during_the_merge(
    unbroken: ShardJob, tmp_path: Path, faults: str, file_size: int
) -> None:
    folder = unbroken.output.parent
    job = make_merge([unbroken.output], folder, tmp_path, max_rejected=0)
    log = tmp_path / "merge.log"
    assert run_merge(job, log, faults, file_size) == 1
    assert "run again; what is finished stays" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merge.log"]
    assert run_merge(job, log) == 0
    with h5py.File(job.output) as merged, h5py.File(unbroken.output) as shard:
        assert merged["mean/6"][:].tobytes() == shard["sequences/mean/6"][:].tobytes()
