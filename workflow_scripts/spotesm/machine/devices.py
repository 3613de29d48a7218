"""Which device a job computes on: one leased GPU, or else the CPU."""

import logging
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from spotesm.base.failures import UserError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
POLLS_BETWEEN_MESSAGES = 60


@contextmanager
def lease_device(check_stop: Callable[[], None]) -> Iterator[torch.device]:
    """Hold one GPU that no other spotESM job of this user holds, or the CPU if there is none.

    The lease is a file lock that the kernel frees when the process dies, however it dies. It
    is taken before the first CUDA call, and CUDA then sees that GPU alone. Waits, with a line
    in the log, while every GPU is leased.

    Args:
        check_stop: called between polls; what it raises ends the wait.
    """
    gpus = visible_gpus()
    if not gpus:
        log.info("no GPU: computing on the CPU with %d threads", torch.get_num_threads())
        yield torch.device("cpu")
        return
    with lease_one(gpus, lease_directory(), check_stop) as gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        if not torch.cuda.is_available():
            raise UserError(
                f"GPU {gpu} is there, but torch {torch.__version__} cannot use it; "
                "install a CUDA build of torch, or set CUDA_VISIBLE_DEVICES= to use the CPU"
            )
        device = torch.device("cuda", 0)
        log.info("computing on %s (%s)", torch.cuda.get_device_name(device), gpu)
        yield device


def visible_gpus() -> list[str]:
    """Return the UUIDs of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves to this process.

    Asked of nvidia-smi, because CUDA itself must not be touched before a GPU is leased.
    """
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    uuids = listing.stdout.split()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return uuids
    # CUDA numbers GPUs as nvidia-smi does only in this order.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return [_uuid_of(token.strip(), uuids) for token in visible.split(",") if token.strip()]


def _uuid_of(token: str, uuids: Sequence[str]) -> str:
    if token.isdigit() and int(token) < len(uuids):
        return uuids[int(token)]
    return next((uuid for uuid in uuids if uuid.startswith(token)), token)


@contextmanager
def lease_one(
    gpus: Sequence[str], directory: Path, check_stop: Callable[[], None]
) -> Iterator[str]:
    """Hold the lock of one of `gpus`, waiting until one is free."""
    locks = {gpu: FileLock(directory / f"{gpu}.lock") for gpu in gpus}
    polls = 0
    while True:
        for gpu, lock in locks.items():
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield gpu
            finally:
                lock.release()
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


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return what `auto` means on the device: float16 on a GPU, float32 on a CPU."""
    if precision != "auto":
        return precision
    return "float16" if device.type == "cuda" else "float32"
