import multiprocessing
import os
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from spotesm.base.failures import DeviceError, UserError, may_pass
from spotesm.machine import devices
from spotesm.machine.devices import lease_one, open_gpu, resolve_precision
from spotesm.weights.architectures import ARCHITECTURES

GPUS = ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]


@pytest.mark.parametrize(
    ("cuda", "said", "expected"),
    [
        (
            "13.0",
            "The NVIDIA driver on your system is too old\nUpdate",
            "needs NVIDIA's driver 580 or",
        ),
        ("12.8", "", "needs NVIDIA's driver 525 or"),
        ("99.1", "", "built for CUDA 99.1. nvidia-smi shows"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_no_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: str, said: str, expected: str
) -> None:
    def unavailable() -> bool:
        if said:
            warnings.warn(said, stacklevel=1)
        return False

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(DeviceError) as caught:
        open_gpu("GPU-aaaa")
    assert expected in str(caught.value)
    assert ("driver on your system is too old)" in str(caught.value)) == bool(said)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa"


def test_a_torch_without_cuda_is_said_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="is built without CUDA; install a CUDA build") as caught:
        open_gpu("GPU-aaaa")
    assert not may_pass(caught.value)


def test_mig_devices_can_be_leased(tmp_path: Path) -> None:
    with lease_one(["MIG-GPU-dddd/1/0"], tmp_path, check_stop=lambda: None) as gpu:
        assert gpu == "MIG-GPU-dddd/1/0"


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


@pytest.mark.parametrize(
    ("model", "capability", "expected"),
    [
        ("esm2_t33_650M_UR50D", (9, 0), "float16"),
        ("esm2_t33_650M_UR50D", (7, 5), "float16"),
        ("esmc_600m", (9, 0), "bfloat16"),
        ("esmc_600m", (8, 0), "bfloat16"),
        ("esmc_600m", (7, 5), "float16"),
        ("esm1b_t33_650M_UR50S", (9, 0), "float16"),
    ],
)
def test_auto_is_what_the_model_and_the_gpu_have(
    monkeypatch: pytest.MonkeyPatch, model: str, capability: tuple[int, int], expected: str
) -> None:
    shape = ARCHITECTURES[model]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", torch.device("cuda", 0), shape) == expected
    assert resolve_precision("auto", torch.device("cpu"), shape) == "float32"
    for asked in ("float32", "bfloat16", "float16"):
        assert resolve_precision(asked, torch.device("cuda", 0), shape) == asked
