"""What one device could not embed, another one tries; nothing else is computed again."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from sequences import random_sequence
from shards import changed, make_merge
from spotesm.embed import faults, task
from spotesm.embed.task import ShardJob
from spotesm.hdf5.unfit import read_devices
from spotesm.merged.merge import merge_shards
from spotesm.model.packed import PackedModel
from spotesm.request.results import Results
from spotesm.sequences.digests import from_bytes
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.reasons import Device
from spotesm.shards.check import check_shard
from spotesm.shards.shard_file import ShardFile
from tiny_shard import job_beside, resume

N = 11
MOTIF = "WWCWW"
SMALL = Device("T4", 16 << 30, "float32")
LARGE = dataclasses.replace(SMALL, memory=24 << 30)
OTHER = dataclasses.replace(SMALL, name="L4")
KINDS = {"out_of_memory": "out_of_memory", "not_finite": "not_finite", "cuda_runtime": "cuda_error"}
LEFT = ("parts", "finished", "another split", "merged")


def make_records(place: int) -> list[tuple[str, str]]:
    """Of one of them the motif is part; one comes twice, and one is longer than the window."""
    rng = random.Random(5)
    records = [(f"p{i}", random_sequence(rng, 8 + i % 4)) for i in range(N)]
    records[place] = (f"p{place}", f"K{MOTIF}L")
    return [*records, ("again", records[place][1]), ("long", random_sequence(rng, 30))]


class Machine:
    """The device that jobs find, and what fails on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.forward = PackedModel.forward

    def become(self, device: Device, fault: str = "") -> None:
        def describe(_: torch.device, precision: str) -> Device:
            return dataclasses.replace(device, precision=precision)

        self.monkeypatch.setattr(task, "describe_device", describe)
        self.monkeypatch.setattr(PackedModel, "forward", self.forward)
        faults.install(fault)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def embed_with(machine: Machine, job: ShardJob, kind: str) -> int:
    """Embed where the motif fails; how many sequences the last attempt computed."""
    machine.become(SMALL, f"{KINDS[kind]}={MOTIF}")
    for _ in range(2 if kind == "cuda_runtime" else 0):
        with pytest.raises(torch.AcceleratorError):
            resume(job)
    return resume(job)


def leave(job: ShardJob, left: str) -> ShardJob:
    """Remove all that an earlier run left but for one thing; the next job."""
    folder = job.output.parent
    merge_shards(make_merge([job.output], folder, folder))
    job.output.unlink()
    for pattern in {
        "parts": ("finished.*", "journal*"),
        "finished": ("part-*", "journal*"),
        "another split": ("part-*", "journal*"),
        "merged": ("*",),
    }[left]:
        for path in job.checkpoints.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "another split":
        job.checkpoints.rename(job.checkpoints.with_name("1-of-3"))
    past = folder / "embeddings.h5"
    if left != "merged":
        past.unlink()
    return dataclasses.replace(job, past=past)


def results_of(job: ShardJob) -> Results:
    """What the shard's file says, in one piece: sequences, ascending by digest."""
    check_shard(job.output, task.Shard.index(job.fasta), read_fingerprint(job))
    with ShardFile(job.output) as file:
        n = file.n_sequences
        reasons = file.read_reasons(np.arange(n))
        digests, windows, rows = (
            file.sequences.read(name, 0, n) for name in ("digests", "windows", "mean/2")
        )
    order = np.argsort(from_bytes(digests))
    return Results(
        from_bytes(digests)[order],
        [reasons.get(i) for i in order.tolist()],
        windows[order],
        {"mean/2": rows[order]},
    )


def read_fingerprint(job: ShardJob) -> dict:
    with h5py.File(job.output) as file:
        return json.loads(file.attrs["fingerprint"])


@pytest.fixture
def make(whole: ShardJob, tmp_path: Path) -> Callable[[int], ShardJob]:
    def make_job(place: int, name: str = "a") -> ShardJob:
        (tmp_path / name).mkdir()
        return changed(
            job_beside(whole, tmp_path / name, make_records(place)),
            outputs=("mean",),
            layers=(2,),
            long_sequences=LongSequences("window", 12, 4, "reject"),
            tokens_per_batch=20,
        )

    return make_job


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 5, N - 1])
@pytest.mark.parametrize("left", LEFT)
def test_another_device_tries_what_was_rejected_alone(
    make: Callable, machine: Machine, kind: str, place: int, left: str
) -> None:
    machine.become(SMALL)
    unbroken = make(place, "unbroken")
    resume(unbroken)
    wanted = results_of(unbroken)

    job = make(place)
    embed_with(machine, job, kind)
    before = results_of(job)
    (which,) = [i for i, reason in enumerate(before.reasons) if reason]
    reason = before.reasons[which]
    assert (reason.keyword, reason.device) == (kind, SMALL)
    assert str(SMALL) in reason.detail
    job = leave(job, left)
    if left == "merged":
        with h5py.File(job.past) as merged:
            assert read_devices(merged.attrs) == [SMALL]

    machine.become(SMALL)  # where nothing fails any more
    assert resume(job) == 0
    assert results_of(job).reasons == before.reasons

    job.output.unlink()
    machine.become(OTHER if kind == "not_finite" else LARGE)
    assert resume(job) == 1
    after = results_of(job)
    assert after.reasons == [None] * len(after.reasons)
    others = np.arange(len(after.digests)) != which
    assert after.rows["mean/2"][others].tobytes() == before.rows["mean/2"][others].tobytes()
    np.testing.assert_allclose(after.rows["mean/2"], wanted.rows["mean/2"], rtol=0, atol=1e-5)
    with h5py.File(job.output) as file:
        assert read_devices(file.attrs) == []


@pytest.mark.parametrize("place", [0, 5, N - 1])
@pytest.mark.parametrize("left", LEFT)
def test_smaller_windows_are_tried_on_the_same_device(
    make: Callable, machine: Machine, place: int, left: str
) -> None:
    """And back: what goes through in smaller windows alone is rejected again."""
    job = make(place)
    embed_with(machine, job, "out_of_memory")
    before = results_of(job)
    job = leave(job, left)
    machine.become(SMALL)
    smaller = LongSequences("window", 12, 4, "smaller_windows")
    job = changed(job, long_sequences=smaller)
    assert resume(job) == 1
    after = results_of(job)
    assert after.reasons == [None] * len(after.reasons)
    others = np.array([reason is None for reason in before.reasons])
    assert after.rows["mean/2"][others].tobytes() == before.rows["mean/2"][others].tobytes()


def test_smaller_windows_change_nothing_where_all_fitted(make: Callable, machine: Machine) -> None:
    machine.become(SMALL)
    job = make(0)
    resume(job)
    before = results_of(job)
    job.output.unlink()
    job = changed(job, long_sequences=LongSequences("window", 12, 4, "smaller_windows"))
    assert resume(job) == 0
    assert results_of(job).rows["mean/2"].tobytes() == before.rows["mean/2"].tobytes()


@pytest.mark.parametrize(
    ("policy", "computed"),
    [
        (LongSequences("reject", 12, 4, "reject"), 0),
        (LongSequences("whole", 12, 4, "reject"), 1),
        (LongSequences("truncate", 12, 4, "reject"), 1),
        (LongSequences("window", 12, 2, "reject"), 1),
        (LongSequences("window", 40, 4, "reject"), 1),
        (LongSequences("window", 10, 4, "reject"), 3),  # those of 11 residues, and the long one
    ],
)
def test_another_policy_computes_what_it_cuts_otherwise(
    make: Callable, machine: Machine, policy: LongSequences, computed: int
) -> None:
    machine.become(SMALL)
    fresh = changed(make(0, "fresh"), long_sequences=policy)
    resume(fresh)
    job = make(0)
    resume(job)
    job.output.unlink()
    job = changed(job, long_sequences=policy)
    records = {sequence for _, sequence in make_records(0)}
    long = sum(len(sequence) > min(policy.window, 12) for sequence in records)
    assert computed in (0, long)
    assert resume(job) == computed
    got, wanted = results_of(job), results_of(fresh)
    assert got.reasons == wanted.reasons
    assert got.windows.tolist() == wanted.windows.tolist()
    embedded = [reason is None for reason in got.reasons]
    np.testing.assert_allclose(
        got.rows["mean/2"][embedded], wanted.rows["mean/2"][embedded], rtol=0, atol=1e-5
    )


def test_a_rejection_of_fewer_outputs_is_none_of_more(make: Callable, machine: Machine) -> None:
    """Nor the other way round: what does not fit with contacts may fit without."""
    job = changed(make(5), outputs=("mean", "contacts"))
    embed_with(machine, job, "out_of_memory")
    job.output.unlink()
    machine.become(SMALL)
    assert resume(changed(job, outputs=("mean",))) == 1
