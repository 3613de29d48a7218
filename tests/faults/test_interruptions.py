"""Jobs that are killed, stopped, restarted, and must give what an unbroken one gives."""

import random
import shutil
import signal
from pathlib import Path

import h5py
import pytest
from sequences import random_sequence, write_fasta
from shards import (
    assert_same_datasets,
    changed,
    journal_of,
    log_of,
    make_job,
    parts_of,
    read_datasets,
    run,
    running,
    stop,
    wait_until,
)
from slurm_stubs import install_slurm_stubs
from spotesm.embed.task import ShardJob
from spotesm.sequences.long_sequences import LongSequences
from spotesm.shards.checkpoints import Thresholds

N_KILLS = 22
N_SEQUENCES = 100
ARRAY_TASK = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short and long proteins, some of them twice."""
    rng = random.Random(7)
    sequences = [random_sequence(rng, rng.randint(1, 50)) for _ in range(N_SEQUENCES)]
    records = [(f"p{i}", s) for i, s in enumerate(sequences)]
    records += [(f"again{i}", sequences[i]) for i in range(0, N_SEQUENCES, 10)]
    return write_fasta(tmp_path_factory.mktemp("input") / "in.fasta", records)


def counts_of(job: ShardJob) -> tuple[int, int, int]:
    with h5py.File(job.output, "r") as file:
        return tuple(int(file.attrs[n]) for n in ("n_resumed", "n_computed", "attempts"))


def count_starts(job: ShardJob) -> int:
    return sum(entry["event"] == "start" for entry in journal_of(job))


def interrupt_after_parts(
    job: ShardJob, parts: int, number: signal.Signals, **environment: str
) -> int:
    with running(job, **environment) as process:
        assert wait_until(lambda: len(parts_of(job)) >= parts, process)
        return stop(process, number)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, N_KILLS), (signal.SIGTERM, 8)])
def test_interrupted_at_random_moments(
    job: ShardJob, unbroken: ShardJob, number: signal.Signals, times: int
) -> None:
    rng = random.Random(8)
    kills = 0
    while kills < times:
        parts_before = len(parts_of(job))
        # Some moments lie before the first new part, some after it, most between two batches.
        more_parts = rng.choice([0, 1, 1, 2])
        polls = iter(range(rng.randint(0, 200)))
        with running(job) as process:
            alive = wait_until(
                lambda goal=parts_before + more_parts: len(parts_of(job)) >= goal, process
            )
            if alive:
                wait_until(lambda polls=polls: next(polls, None) is None, process)
            if process.exitcode is None:
                # SIGTERM kills before its handler is there; while the end is written, it waits.
                assert stop(process, number) in (-number, 128 + number, 0)
                kills += 1
        if job.output.exists():
            assert_same_datasets(job.output, unbroken.output)
            job.output.unlink()  # finished too early to be killed again: once more from the start
            shutil.rmtree(job.checkpoints)
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output)
    assert not list(job.output.parent.glob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_jobs_write_a_part_and_compute_nothing_twice(
    job: ShardJob, unbroken: ShardJob, number: signal.Signals
) -> None:
    # Parts by sequences are out of reach: only the emergency writes them.
    job = changed(job, thresholds=Thresholds(10_000, 3600, 1 << 30))
    for attempt in range(1, 4):
        with running(job) as process:
            assert wait_until(lambda a=attempt: count_starts(job) >= a, process)
            exit_code = stop(process, number)
        assert exit_code == 128 + number
        assert not job.output.exists()
    assert run(job) == 0
    journal = journal_of(job)
    assert [e["event"] for e in journal if e["event"] != "start"] == ["stopped"] * 3 + ["completed"]
    assert sum(e.get("computed", 0) for e in journal) == N_SEQUENCES
    resumed, computed, attempts = counts_of(job)
    assert (resumed + computed, attempts) == (N_SEQUENCES, 4)
    assert computed == journal[-1]["computed"]
    assert_same_datasets(job.output, unbroken.output)


@pytest.mark.parametrize(
    ("number", "of_job", "requeued"),
    [
        (signal.SIGTERM, {"SPOTESM_REQUEUE": "1"}, "42"),
        (signal.SIGTERM, {"SPOTESM_REQUEUE": "1", **ARRAY_TASK}, "40_3"),
        (signal.SIGINT, {"SPOTESM_REQUEUE": "1"}, None),
        (signal.SIGTERM, {}, None),  # a person's own sbatch, or salloc
    ],
)
def test_only_jobs_of_our_slurm_profile_are_requeued(
    job: ShardJob,
    tmp_path: Path,
    number: signal.Signals,
    of_job: dict[str, str],
    requeued: str | None,
) -> None:
    slurm = tmp_path / "slurm"
    of_slurm = {**install_slurm_stubs(slurm), "SLURM_JOB_ID": "42"}
    assert interrupt_after_parts(job, 1, number, **of_slurm, **of_job) == 128 + number
    calls = (slurm / "calls").read_text() if (slurm / "calls").exists() else ""
    asked = f"squeue --noheader --jobs {requeued} --format %T\nscontrol requeue {requeued}\n"
    assert calls == (asked if requeued else "")


def test_a_second_signal_changes_nothing(job: ShardJob, unbroken: ShardJob) -> None:
    with running(job) as process:
        assert wait_until(lambda: len(parts_of(job)) >= 1, process)
        for _ in range(5):
            process.terminate()
        assert stop(process, signal.SIGINT) in (143, 130)
    assert run(job) == 0
    assert_same_datasets(job.output, unbroken.output)


def test_another_token_budget_keeps_what_is_done(job: ShardJob, unbroken: ShardJob) -> None:
    assert interrupt_after_parts(job, 3, signal.SIGTERM) == 143
    done = sum(e.get("computed", 0) for e in journal_of(job))
    assert run(changed(job, tokens_per_batch=700)) == 0
    assert counts_of(job) == (done, N_SEQUENCES - done, 2)
    assert_same_datasets(job.output, unbroken.output, tolerance=1e-6)


def test_a_part_of_other_settings_is_set_aside(job: ShardJob, unbroken: ShardJob) -> None:
    other = changed(
        job,
        checkpoints=job.checkpoints.with_name("other"),
        long_sequences=LongSequences("window", 40, 12, "reject"),
        keep_parts=True,
    )
    assert run(other) == 0
    assert interrupt_after_parts(job, 2, signal.SIGTERM) == 143
    foreign = parts_of(other)[0]
    (job.checkpoints / foreign.name.replace("part-00001", "part-90000")).write_bytes(
        foreign.read_bytes()
    )
    job.output.unlink()
    job = changed(job, keep_parts=True)
    assert run(job) == 0
    assert [p.name[:10] for p in (job.checkpoints / "set-aside").iterdir()] == ["part-90000"]
    assert_same_datasets(job.output, unbroken.output)


def test_other_settings_start_anew_and_mix_nothing(job: ShardJob, unbroken: ShardJob) -> None:
    other = changed(job, long_sequences=LongSequences("window", 40, 12, "reject"))
    assert interrupt_after_parts(other, 3, signal.SIGTERM) == 143
    assert run(job) == 0
    assert counts_of(job)[:2] == (0, N_SEQUENCES)
    assert_same_datasets(job.output, unbroken.output)


def test_without_checkpoints_the_file_is_the_same(job: ShardJob, unbroken: ShardJob) -> None:
    job = changed(job, checkpointing=False)
    with running(job) as process:
        wait_until(job.checkpoints.exists, process)
        assert parts_of(job) == []
        process.join()
    assert process.exitcode == 0
    assert not list(job.checkpoints.glob("finished.*"))
    assert_same_datasets(job.output, unbroken.output)


def test_a_forced_restart_ignores_parts_once(job: ShardJob, unbroken: ShardJob) -> None:
    assert interrupt_after_parts(job, 3, signal.SIGTERM) == 143
    forced = changed(job, restart="this-run")
    with running(forced) as process:
        assert wait_until(lambda: count_starts(job) == 2 and len(parts_of(job)) >= 2, process)
        assert stop(process, signal.SIGTERM) == 143
    assert run(forced) == 0
    *_, stopped, _, completed = journal_of(job)
    assert stopped["computed"] + completed["computed"] == N_SEQUENCES
    assert counts_of(job) == (stopped["computed"], completed["computed"], 3)
    assert_same_datasets(job.output, unbroken.output)


def test_parts_are_removed_or_kept(job: ShardJob) -> None:
    assert run(job) == 0
    left = sorted(path.name.split(".")[0] for path in job.checkpoints.iterdir())
    assert left == ["fingerprint", "finished", "journal", "lock", "progress", "speed"]
    job.output.unlink()
    assert run(changed(job, restart="again", keep_parts=True)) == 0
    assert len(parts_of(job)) > 10


def test_a_finished_shard_is_not_computed_again(job: ShardJob, unbroken: ShardJob) -> None:
    """Snakemake deletes what an orphan of it finished, as it does not know that it is whole."""
    assert run(job) == 0
    job.output.unlink()
    assert run(job) == 0
    assert counts_of(job)[:2] == (N_SEQUENCES, 0)
    assert_same_datasets(job.output, unbroken.output)
    (finished,) = job.checkpoints.glob("finished.*.h5")
    job.output.unlink()
    content = bytearray(finished.read_bytes())
    content[len(content) // 2] ^= 1
    finished.write_bytes(content)
    assert run(job) == 0
    assert counts_of(job)[:2] == (0, N_SEQUENCES)
    assert_same_datasets(job.output, unbroken.output)


def test_records_that_are_added_are_all_that_is_computed(
    job: ShardJob, fasta: Path, tmp_path: Path, weights_manifest: Path
) -> None:
    assert run(job) == 0
    longer = tmp_path / "longer.fasta"
    longer.write_text(">new\nMKVACDEFGHIKL\n" + fasta.read_text() + ">last\nACDEFWWW\n")
    before = read_datasets(job.output)
    job = make_job(tmp_path, longer, weights_manifest)
    assert run(job) == 0
    assert counts_of(job)[:2] == (N_SEQUENCES, 2)
    after = read_datasets(job.output)
    assert after["sequences/mean/6"][1:-1].tobytes() == before["sequences/mean/6"].tobytes()
    name = "records/sequence_ids"
    assert after[name].tolist()[1:-1] == before[name].tolist()


def test_two_writers_of_one_shard(job: ShardJob, unbroken: ShardJob) -> None:
    """An orphan of a killed Snakemake works on; the new job waits and takes what it finished."""
    with running(job) as orphan:
        assert wait_until(lambda: len(parts_of(job)) >= 1, orphan)
        assert run(job) == 0
        orphan.join()
    assert "another process is writing this shard" in log_of(job).read_text()
    assert orphan.exitcode == 0
    assert [e["event"] for e in journal_of(job)] == ["start", "completed"]
    assert_same_datasets(job.output, unbroken.output)


def test_rows_are_the_records(job: ShardJob, fasta: Path) -> None:
    assert run(job) == 0
    datasets = read_datasets(job.output)
    ids = [line[1:] for line in fasta.read_text().splitlines() if line.startswith(">")]
    assert [name.decode() for name in datasets["records/sequence_ids"]] == ids
    rows = datasets["records/sequences"].tolist()
    assert rows == [*range(N_SEQUENCES), *range(0, N_SEQUENCES, 10)]
