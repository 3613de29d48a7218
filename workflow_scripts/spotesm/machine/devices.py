"""Which device a job computes on: one leased GPU, or else the CPU."""

import logging
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from spotesm.base.failures import DeviceError, UserError
from spotesm.base.locks import try_lock
from spotesm.machine.nvidia import (
    AUTO,
    ON_CPU,
    ON_GPU,
    VISIBLE,
    describe_cpu,
    describe_gpu,
    find_gpus,
)
from spotesm.sequences.reasons import Device
from spotesm.weights.architectures import Architecture

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
POLLS_BETWEEN_MESSAGES = 60
BFLOAT16_FROM = (8, 0)  # the compute capability, that of Ampere
# By CUDA's major version; source: CUDA Compatibility, "Minor Version Compatibility".
OLDEST_DRIVERS = {"11": "450", "12": "525", "13": "580"}


@contextmanager
def lease_device(check_stop: Callable[[], None]) -> Iterator[torch.device]:
    """Hold one GPU that no other spotESM job of this user holds, or the CPU if there is none.

    The lease is a file lock that the kernel frees when the process dies, however it dies. It
    is taken before the first CUDA call, and CUDA then sees that GPU alone. Waits, with a line
    in the log, while every GPU is leased.

    Args:
        check_stop: called between polls; what it raises ends the wait.

    Raises:
        UserError: a GPU is there, but not to be used.
    """
    gpus = visible_gpus()
    if not gpus:
        yield torch.device("cpu")
        return
    with lease_one(gpus, lease_directory(), check_stop) as gpu:
        device = open_gpu(gpu)
        log.info("computing on %s (%s)", torch.cuda.get_device_name(device), gpu)
        yield device


def find_device() -> torch.device:
    """Return what a job would compute on, without a lease."""
    gpus = visible_gpus()
    return open_gpu(gpus[0]) if gpus else torch.device("cpu")


def visible_gpus() -> list[str]:
    """Return the UUIDs of the GPUs that this process may use; of none, the log says why."""
    found = find_gpus()
    if not found.uuids:
        threads = torch.get_num_threads()
        if found.why_none:
            log.warning("%s: computing on the CPU with %d threads", found.why_none, threads)
        else:
            log.info("no GPU: computing on the CPU with %d threads", threads)
    return found.uuids


def open_gpu(gpu: str) -> torch.device:
    """Let CUDA see one GPU alone, and return it.

    Raises:
        UserError: torch cannot use it.
    """
    os.environ[VISIBLE] = gpu
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        return torch.device("cuda", 0)
    cuda, instead = torch.version.cuda, f"set {VISIBLE}= to use the CPU"
    there = f"GPU {gpu} is there, but torch {torch.__version__}"
    if cuda is None:
        raise UserError(f"{there} is built without CUDA; install a CUDA build, or {instead}")
    reason = f" ({str(said[0].message).splitlines()[0]})" if said else ""
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0])
    needs = f", which needs NVIDIA's driver {oldest} or newer" if oldest else ""
    raise DeviceError(
        f"{there} cannot use it{reason}; it is built for CUDA {cuda}{needs}. nvidia-smi shows "
        f"which driver is here: update it, install a torch for an older CUDA, or {instead}"
    )


@contextmanager
def lease_one(
    gpus: Sequence[str], directory: Path, check_stop: Callable[[], None]
) -> Iterator[str]:
    """Hold the lock of one of `gpus`, waiting until one is free."""
    polls = 0
    while True:
        for gpu in gpus:
            # MIG devices of older drivers have slashes in their names.
            with try_lock(directory / f"{gpu.replace('/', '_')}.lock", "TMPDIR") as free:
                if free:
                    yield gpu
                    return
        if polls % POLLS_BETWEEN_MESSAGES == 0:
            log.info("all %d GPUs are leased to other jobs; waiting for one", len(gpus))
        polls += 1
        check_stop()
        time.sleep(POLL_SECONDS)


def lease_directory() -> Path:
    """Return the directory of the lock files, made private to this user.

    Raises:
        UserError: the directory belongs to someone else.
    """
    directory = Path(tempfile.gettempdir()) / f"spotesm-leases-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{directory}: must be a directory of your own; remove it or set TMPDIR")
    return directory


def describe_device(device: torch.device, precision: str) -> Device:
    """Return what this job's device is, as far as it decides whether a sequence can be embedded."""
    if device.type == "cuda" and (gpu := os.environ.get(VISIBLE)):
        return describe_gpu(gpu, precision)
    return describe_cpu(precision)


def resolve_precision(precision: str, device: torch.device, architecture: Architecture) -> str:
    """Return what `auto` means on the device for a model: 16 bits on a GPU, float32 on a CPU.

    Where a family is computed in bfloat16, that is on GPUs that multiply in it, else float16.
    """
    if precision != AUTO:
        return precision
    if device.type != "cuda":
        return ON_CPU
    half = architecture.traits.half_precision
    has_it = half == ON_GPU or torch.cuda.get_device_capability(device) >= BFLOAT16_FROM
    return half if has_it else ON_GPU
