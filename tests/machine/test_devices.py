import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from spotesm.machine import devices
from spotesm.machine.devices import lease_one, visible_gpus

GPUS = ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi lists three GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo {gpu}\n" for gpu in GPUS))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, GPUS),
        ("", []),
        ("1", ["GPU-bbbb"]),
        ("2,0", ["GPU-cccc", "GPU-aaaa"]),
        ("GPU-bb", ["GPU-bbbb"]),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
@pytest.mark.usefixtures("nvidia_smi")
def test_cuda_visible_devices_is_respected(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == expected


def test_no_driver_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def _hold(directory: Path, connection: Connection) -> None:
    with lease_one(GPUS[:2], directory, check_stop=lambda: None) as gpu:
        connection.send(gpu)
        connection.recv()


def test_jobs_share_no_gpu_and_a_killed_one_frees_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.01)
    context = multiprocessing.get_context("fork")
    jobs = []
    for _ in range(3):
        mine, theirs = context.Pipe()
        job = context.Process(target=_hold, args=(tmp_path, theirs))
        job.start()
        jobs.append((job, mine))
    try:
        ready = [place for place, (_, mine) in enumerate(jobs) if mine.poll(5)]
        assert len(ready) == 2
        held = {jobs[place][1].recv(): place for place in ready}
        assert set(held) == set(GPUS[:2])
        jobs[held["GPU-bbbb"]][0].kill()
        (waiting,) = {0, 1, 2} - set(ready)
        assert jobs[waiting][1].poll(10)
        assert jobs[waiting][1].recv() == "GPU-bbbb"
    finally:
        for job, _ in jobs:
            job.kill()
            job.join()


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    class Asked(Exception):
        pass

    def stop() -> None:
        raise Asked

    with lease_one(["GPU-aaaa"], tmp_path, stop), pytest.raises(Asked):  # noqa: SIM117
        with lease_one(["GPU-aaaa"], tmp_path, stop):
            pass
