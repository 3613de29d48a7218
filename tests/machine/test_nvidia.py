"""What nvidia-smi says, or does not, and what CUDA_VISIBLE_DEVICES leaves of it."""

import logging
import os
import stat
from pathlib import Path

import psutil
import pytest
from spotesm.base.failures import DeviceError
from spotesm.machine import nvidia
from spotesm.machine.devices import visible_gpus
from spotesm.machine.nvidia import describe_gpu, describe_local, find_gpus, threads_of_job
from spotesm.sequences.reasons import Device

GPUS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"]
WHOLE = "".join(f"GPU {i}: NVIDIA H100 (UUID: {gpu})\n" for i, gpu in enumerate(GPUS))
CUT = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111-1)
  MIG 1g.5gb      Device  1: (UUID: MIG-1122-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc-3)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-dddd-4)
  MIG 7g.40gb     Device  0: (UUID: MIG-GPU-dddd-4/1/0)
"""
MIGS = ["MIG-1111-1", "MIG-1122-2", "GPU-cccc-3", "MIG-GPU-dddd-4/1/0"]


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nvidia-smi is to be; nothing else on this machine tells of a driver."""
    monkeypatch.setattr(nvidia, "KERNEL_DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    threads_of_job.cache_clear()
    describe_gpu.cache_clear()
    return tmp_path / "nvidia-smi"


def install(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def listing(program: Path, text: str) -> None:
    install(program, f"cat <<'END'\n{text}END")


@pytest.mark.parametrize(
    ("listed", "visible", "expected"),
    [
        (WHOLE, None, GPUS),
        (WHOLE, "", []),
        (WHOLE, "1", GPUS[1:2]),
        (WHOLE, "2,0", [GPUS[2], GPUS[0]]),
        (WHOLE, " 2 , 0 ", [GPUS[2], GPUS[0]]),
        (WHOLE, "-1", []),
        (WHOLE, "NoDevFiles", []),
        (WHOLE, "none", []),
        (WHOLE, "void", []),
        (WHOLE, "7", []),
        (WHOLE, "0,9", GPUS[:1]),
        (WHOLE, "0,9,1", GPUS[:1]),
        (WHOLE, "0,2,-1,1", [GPUS[0], GPUS[2]]),
        (WHOLE, "0,,1", GPUS[:1]),
        (WHOLE, "0,0", []),
        (WHOLE, "1,0,1", []),
        (WHOLE, "0,GPU-cccc-3", GPUS[:1]),
        (WHOLE, "GPU-cccc-3,0", GPUS[2:]),
        (WHOLE, "GPU-cc", GPUS[2:]),
        (WHOLE, "GPU-aab,GPU-c", GPUS[1:]),
        (WHOLE, "GPU-aa", []),  # two begin so
        (WHOLE, "GPU-cc,GPU-aa,GPU-aaaa", GPUS[2:]),
        (WHOLE, "GPU-cc,GPU-cccc-3", []),  # twice the same
        (WHOLE, "GPU-xx,GPU-cc", []),
        (
            WHOLE,
            "MIG-1234",
            ["MIG-1234"],
        ),  # MIG devices that are not listed are taken at their word
        ("GPU-aaaa-bbbb\n", None, ["GPU-aaaa-bbbb"]),
        (CUT, None, MIGS),
        (CUT, "MIG-1122-2", ["MIG-1122-2"]),
        (CUT, "MIG-1122", ["MIG-1122-2"]),
        (CUT, "MIG-9", []),
        (CUT, "MIG-GPU-dddd-4/1/0", ["MIG-GPU-dddd-4/1/0"]),
        (CUT, "GPU-cccc-3", ["GPU-cccc-3"]),
        (CUT, "0,2", ["MIG-1111-1", "GPU-cccc-3"]),
        (f"warning: infoROM is corrupted\n{WHOLE}WARNING: GPU-less\n", None, GPUS),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    listed: str,
    visible: str | None,
    expected: list[str],
) -> None:
    listing(program, listed)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == expected
    assert threads_of_job(7) == (1 if expected else 7)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (0 if expected else 1)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert all(f"CUDA_VISIBLE_DEVICES={visible}" in line and "on the CPU" in line for line in said)


def hang(program: Path) -> None:
    install(program, "sleep 98765")


BROKEN = {
    "fails": (
        lambda program: install(program, "echo cannot talk to the driver; exit 9"),
        "nvidia-smi fails (cannot talk to the driver)",
    ),
    "fails in silence": (lambda program: install(program, "exit 9"), "fails (exit code 9)"),
    "dies": (lambda program: install(program, "kill -9 $$"), "fails (exit code -9)"),
    "hangs": (hang, "nvidia-smi does not answer within"),
    "is not executable": (Path.touch, "nvidia-smi cannot be run (not found on PATH, or not"),
    "is a broken link": (
        lambda program: program.symlink_to("nowhere"),
        "nvidia-smi cannot be run (not found on PATH, or not",
    ),
    "is a folder": (Path.mkdir, "nvidia-smi cannot be run (not found on PATH, or not"),
    "is no program": (
        lambda program: (program.write_bytes(b"\x7fELF no more"), program.chmod(0o755)),
        "nvidia-smi cannot be run (Exec format error)",
    ),
}
EMPTY = {
    "nothing": ("true", "nvidia-smi lists no GPU: computing"),
    "no devices": ("echo No devices were found", "nvidia-smi lists no GPU: No devices were found:"),
    "nonsense": ("echo GPU of sorts", "nvidia-smi lists no GPU: GPU of sorts:"),
    "bytes": (r"printf '\377\376GPU\n'", "nvidia-smi lists no GPU: "),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_nvidia_smi_is_said(
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    monkeypatch.setattr(nvidia, "ANSWER_SECONDS", 0.2 if how == "hangs" else 30.0)
    make, message = BROKEN[how]
    make(program)
    assert visible_gpus() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert message in record.getMessage()
    assert "computing on the CPU" in record.getMessage()
    assert threads_of_job(7) == 7
    asleep = [p for p in psutil.process_iter(["cmdline"]) if "98765" in (p.info["cmdline"] or ())]
    assert [p for p in asleep if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("evidence", ["0", "GPU-aaaa", "kernel driver"])
def test_it_is_an_error_where_gpus_are_wanted(
    program: Path, monkeypatch: pytest.MonkeyPatch, how: str, evidence: str
) -> None:
    monkeypatch.setattr(nvidia, "ANSWER_SECONDS", 0.2 if how == "hangs" else 30.0)
    make, message = BROKEN[how]
    make(program)
    if evidence == "kernel driver":
        nvidia.KERNEL_DRIVER.touch()
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", evidence)
    with pytest.raises(DeviceError) as caught:
        find_gpus()
    assert message in str(caught.value)
    assert str(caught.value).endswith("mend it, or set CUDA_VISIBLE_DEVICES= to use the CPU")


@pytest.mark.parametrize("visible", ["", "-1", "none"])
@pytest.mark.parametrize("how", BROKEN)
def test_who_wants_the_cpu_does_not_ask(
    program: Path, monkeypatch: pytest.MonkeyPatch, how: str, visible: str
) -> None:
    BROKEN[how][0](program)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(nvidia, "_list_gpus", None)
    assert find_gpus().why_none == f"CUDA_VISIBLE_DEVICES={visible} hides every GPU"


@pytest.mark.parametrize("visible", [None, "0"])
@pytest.mark.parametrize("how", EMPTY)
def test_an_nvidia_smi_without_gpus_is_said(
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    visible: str | None,
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    script, message = EMPTY[how]
    install(program, script)
    assert visible_gpus() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(message)


def test_a_driver_without_nvidia_smi_is_said() -> None:
    nvidia.KERNEL_DRIVER.touch()
    with pytest.raises(DeviceError, match="nvidia-smi cannot be run"):
        find_gpus()


def test_without_a_driver_nothing_is_wrong(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == []
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert threads_of_job(7) == 7


def test_a_folder_that_may_not_be_searched_is_said(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = program.with_name("closed")
    closed.mkdir()
    monkeypatch.setenv("PATH", f"{closed}:/usr/bin:/bin")
    access = os.access  # root may search any folder
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(closed) and access(path, mode))
    assert find_gpus().why_none == f"{closed}, on PATH, may not be searched for nvidia-smi"
    install(program, "exit 9")
    monkeypatch.setenv("PATH", f"{closed}:{program.parent}:/usr/bin:/bin")
    assert "nvidia-smi fails" in find_gpus().why_none
    assert program.stat().st_mode & stat.S_IXUSR


# -- what a device is ------------------------------------------------------------------------------

ASKED = 'case "$1" in --query*) echo "$3" | cut -c 10- | wc -c;; *) cat <<END\n{}END\n;; esac'


@pytest.mark.parametrize(
    ("listed", "uuid", "expected"),
    [
        (WHOLE, GPUS[0], ("NVIDIA H100", 7)),
        (WHOLE, GPUS[2], ("NVIDIA H100", 7)),
        (CUT, "GPU-cccc-3", ("NVIDIA A100-SXM4-40GB", 7)),
        (CUT, "MIG-1111-1", ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 0)),
        (CUT, "MIG-1122-2", ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0)),
        (CUT, "MIG-GPU-dddd-4/1/0", ("NVIDIA A100-SXM4-40GB MIG 7g.40gb", 0)),
        (CUT, "MIG-9999", ("GPU", 0)),
    ],
)
def test_a_gpu_is_known_by_name_and_memory(
    program: Path, listed: str, uuid: str, expected: tuple[str, int]
) -> None:
    """The program says as many MiB as the UUID that it is asked about has characters, less 4."""
    install(program, ASKED.format(listed))
    name, mib = expected
    assert describe_gpu(uuid, "float16") == Device(name, mib << 20, "float16")


@pytest.mark.parametrize("script", ["exit 1", "echo [N/A]", "true"])
def test_of_a_gpu_that_says_nothing_the_memory_is_unknown(program: Path, script: str) -> None:
    install(program, script)
    assert describe_gpu(GPUS[0], "float16") == Device("GPU", 0, "float16")


def test_the_device_of_a_local_job(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = describe_local("auto").memory
    assert 0 < memory <= psutil.virtual_memory().total
    assert describe_local("auto") == Device("CPU", memory, "float32")
    install(program, ASKED.format(WHOLE))
    assert describe_local("auto") == Device("NVIDIA H100", 7 << 20, "float16")
    assert describe_local("bfloat16").precision == "bfloat16"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert describe_local("auto") == Device("CPU", memory, "float32")
