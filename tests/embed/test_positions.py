"""Whatever goes wrong goes wrong at the first, a middle and the last sequence, pass and write."""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from shards import journal_of, parts_of
from spotesm.base.durable import read_json
from spotesm.embed import faults
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.machine.preemption import Preempted
from spotesm.model.packed import PackedModel
from spotesm.shards.shard_writer import ShardWriter
from tiny_shard import RECORDS, N, job_beside, lay_out_parts, resume, sequences_in, values_of

PLACES = (0, N // 2, N - 2)  # the last record is too long for the model
MOTIF = "WW"
PASSES = 7  # of an unbroken run, which a test counts


@pytest.fixture
def job(whole: ShardJob, tmp_path: Path) -> ShardJob:
    return job_beside(whole, tmp_path, RECORDS)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Faults on demand, which replace those before."""
    forward, replace = PackedModel.forward, os.replace

    def install(specification: str) -> None:
        monkeypatch.setattr(PackedModel, "forward", forward)
        monkeypatch.setattr(os, "replace", replace)
        faults.install(specification)

    install("")
    yield install
    install("")


def poisoned(whole: ShardJob, folder: Path, place: int) -> ShardJob:
    """The job with a motif in one of its records, as long as before."""
    records = [(name, MOTIF + s[2:] if i == place else s) for i, (name, s) in enumerate(RECORDS)]
    return job_beside(whole, folder, records)


def assert_rejected(job: ShardJob, whole: ShardJob, place: int, keyword: str) -> None:
    """One record alone; all others have the values of the whole run."""
    with h5py.File(job.output) as got, h5py.File(whole.output) as wanted:
        file, expected = got["sequences"], wanted["sequences"]
        reasons = file["reasons"].asstr()[:].tolist()
        assert {i: reason for i, reason in enumerate(reasons) if reason} == {
            place: keyword,
            N - 1: "too_long",
        }
        others = [i for i in range(N - 1) if i != place]
        assert got["records/sequence_ids"].asstr()[:].tolist() == [name for name, _ in RECORDS]
        for key in ("mean/0", "mean/2"):
            np.testing.assert_allclose(file[key][others], expected[key][others], rtol=0, atol=1e-6)
        for i in others:
            for values in ("residues/2", "contacts/values"):
                group = values.partition("/")[0]
                ours, theirs = (
                    f[values][slice(*f[f"{group}/offsets"][i : i + 2])] for f in (file, expected)
                )
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def assert_close(job: ShardJob, whole: ShardJob) -> None:
    with h5py.File(job.output) as got, h5py.File(whole.output) as wanted:
        file, expected = got["sequences"], wanted["sequences"]
        for key in ("mean/0", "mean/2"):
            np.testing.assert_allclose(file[key][:], expected[key][:], rtol=0, atol=1e-6)
        assert file["reasons"][:].tolist() == expected["reasons"][:].tolist()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["out_of_memory", "not_finite"])
def test_a_sequence_that_cannot_be_embedded_is_rejected_alone(
    whole: ShardJob, tmp_path: Path, fail: Callable, place: int, kind: str
) -> None:
    job = poisoned(whole, tmp_path, place)
    fail(f"{kind}={MOTIF}")
    embed_shard(job)
    assert_rejected(job, whole, place, kind)


@pytest.mark.parametrize("place", PLACES)
def test_a_poisonous_sequence_is_isolated_and_rejected(
    whole: ShardJob, tmp_path: Path, fail: Callable, place: int
) -> None:
    job = poisoned(whole, tmp_path, place)
    fail(f"cuda_error={MOTIF}")
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError):
            embed_shard(job)
    embed_shard(job)
    assert_rejected(job, whole, place, "cuda_runtime")
    ends = [entry for entry in journal_of(job) if entry["event"] != "start"]
    assert ends[1]["ids"] == [f"p{place}"]
    assert sum(entry["computed"] for entry in ends) == N - 2


def test_an_unbroken_run_has_so_many_passes(job: ShardJob, fail: Callable, tmp_path: Path) -> None:
    calls: list[int] = []
    forward = PackedModel.forward
    fail("")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(PackedModel, "forward", lambda *args: calls.append(1) or forward(*args))
        embed_shard(job)
    assert len(calls) == PASSES


@pytest.mark.parametrize("at", [1, 2, 3])
def test_memory_that_runs_out_once_halves_the_batch(
    job: ShardJob, whole: ShardJob, fail: Callable, at: int
) -> None:
    """At each of three batches of several sequences; the smaller budget is remembered."""
    fail(f"out_of_memory@{at}")
    embed_shard(dataclasses.replace(job, tokens_per_batch=45))
    assert read_json(job.checkpoints / "plan.json")["tokens_per_batch"] < 45
    assert_close(job, whole)


@pytest.mark.parametrize("at", range(1, PASSES + 1))
@pytest.mark.parametrize("kind", ["cuda_error", "generic_error"])
def test_an_error_keeps_what_was_computed(
    job: ShardJob, whole: ShardJob, fail: Callable, kind: str, at: int
) -> None:
    fail(f"{kind}@{at}")
    with pytest.raises(RuntimeError):
        embed_shard(job)
    failed = journal_of(job)[-1]
    assert failed["type"] == {"cuda_error": "cuda_runtime", "generic_error": "generic"}[kind]
    fail("")
    assert resume(job) == N - 1 - failed["computed"]
    assert_close(job, whole)


@pytest.mark.parametrize("at", range(1, PASSES + 1))
def test_a_job_that_is_stopped_at_a_pass_computes_nothing_twice(
    job: ShardJob, whole: ShardJob, fail: Callable, at: int
) -> None:
    fail(f"stopped@{at}")
    with pytest.raises(Preempted):
        embed_shard(job)
    assert not job.output.exists()
    stopped = journal_of(job)[-1]
    assert (stopped["event"], stopped["message"]) == ("stopped", "stopped by SIGTERM")
    fail("")
    assert resume(job) == N - 1 - stopped["computed"]
    assert values_of(job) == values_of(whole)


def test_a_disk_that_is_full_at_any_write_loses_nothing_that_is_written(
    whole: ShardJob, tmp_path: Path, fail: Callable
) -> None:
    """At the first write, the second, and so on until none fails."""
    for at in range(1, 100):
        (tmp_path / str(at)).mkdir()
        job = job_beside(whole, tmp_path / str(at), RECORDS)
        fail(f"disk_full@{at}")
        try:
            embed_shard(job)
        except OSError:
            assert not job.output.exists()
            assert not list((tmp_path / str(at)).rglob(".*.tmp"))
            kept = sum(sequences_in(part, but_rejected=True) for part in parts_of(job))
            fail("")
            assert resume(job) == N - 1 - kept
        else:
            break
        assert values_of(job) == values_of(whole)
    assert at == 2 + len(parts_of(whole)) + 2  # bound and planned, the parts, the file; then none


# -- a stop asked for while the shard's file is written --------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, method: str, at: int) -> list[int]:
    """Have this process asked to stop when the writer's method is called for the n-th time."""
    calls: list[int] = []
    original = getattr(ShardWriter, method)

    def asked(self: ShardWriter, *arguments: object, **named: object) -> None:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *arguments, **named)

    monkeypatch.setattr(ShardWriter, method, asked)
    return calls


def count_results(job: ShardJob, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patched:
        calls = stop_at(patched, "add", 0)
        embed_shard(job)
        return len(calls)


def test_a_stop_while_results_are_written(
    job: ShardJob, whole: ShardJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At each of them, the first and the last included."""
    n = count_results(job, monkeypatch)
    assert n > 3
    for at in range(1, n + 1):
        (tmp_path / str(at)).mkdir()
        again = job_beside(whole, tmp_path / str(at), RECORDS)
        with monkeypatch.context() as patched:
            calls = stop_at(patched, "add", at)
            with pytest.raises(Preempted):
                embed_shard(again)
        assert at <= len(calls) <= at + 1  # a batch in flight is finished
        assert not again.output.exists()
        assert not list(again.output.parent.glob(".*.tmp"))
        computed = sum(e.get("computed", 0) for e in journal_of(again))
        assert computed + resume(again) == N - 1
        assert values_of(again) == values_of(whole)


def test_a_stop_while_parts_are_read_back(
    job: ShardJob, whole: ShardJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of them: nothing more is read, and nothing is lost."""
    lay_out_parts(whole, job)
    n = count_results(job, monkeypatch)
    assert n > 3
    for at in range(1, n + 1):
        lay_out_parts(whole, job)
        with monkeypatch.context() as patched:
            calls = stop_at(patched, "add", at)
            with pytest.raises(Preempted):
                embed_shard(job)
        assert len(calls) == at
        assert not job.output.exists()
    assert resume(job) == 0
    assert values_of(job) == values_of(whole)


@pytest.mark.parametrize("method", ["finish", "_write_records"])
def test_a_stop_while_the_end_is_written_or_checked_loses_nothing(
    job: ShardJob, whole: ShardJob, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, method, 1)
        with pytest.raises(Preempted):
            embed_shard(job)
    assert journal_of(job)[-1]["event"] == "stopped"
    assert not job.output.exists()
    assert resume(job) == 0
    assert values_of(job) == values_of(whole)
