"""Which NVIDIA GPUs a process may use: those nvidia-smi lists, as far as CUDA_VISIBLE_DEVICES says.

CUDA itself must not be touched before a GPU is leased; and this module loads no torch, so that
the rules can ask it.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spotesm.base.failures import DeviceError
from spotesm.machine.memory import memory_of_host
from spotesm.sequences.reasons import Device

AUTO, ON_GPU, ON_CPU = "auto", "float16", "float32"  # precisions
PROGRAM = "nvidia-smi"
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Waking eight GPUs without persistence mode takes half of this.
ANSWER_SECONDS = 30.0
_UUID = re.compile(r"^\s*(?:.*\(UUID: )?((?:GPU|MIG)-[^\s()]+)\)?\s*$", re.MULTILINE)

_NAMED = re.compile(r"^\s*(?:GPU \d+: (.*?)|(MIG \S+).*?) ?\(UUID: ([^\s()]+)\)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Gpus:
    """The GPUs that this process may use.

    Attributes:
        uuids: in CUDA's order.
        why_none: where there is none although a driver seems to be there; one line.
    """

    uuids: list[str]
    why_none: str = ""


def find_gpus() -> Gpus:
    """Return the GPUs that this process may use.

    Raises:
        DeviceError: a driver is there that does not work, and GPUs are wanted.
    """
    wanted = os.environ.get(VISIBLE)
    if not _has_driver():
        return Gpus([], _closed_folder())
    if wanted is not None and not _entries(wanted):
        return Gpus([], f"{VISIBLE}={wanted} hides every GPU")
    try:
        listed = _list_gpus()
    except DeviceError as error:
        if wanted is None and not KERNEL_DRIVER.exists():
            return Gpus([], str(error))  # such as a login node with a GPU node's programs
        raise DeviceError(f"{error}; mend it, or set {VISIBLE}= to use the CPU") from None
    if wanted is None or not listed.uuids:
        return listed
    chosen = choose_visible(wanted, listed.uuids)
    return Gpus(chosen, "" if chosen else f"{VISIBLE}={wanted} names no GPU of this machine")


@cache
def describe_gpu(uuid: str, precision: str) -> Device:
    """Return what a GPU is: its name, with the profile of a MIG device, and its memory.

    The memory of a MIG device is in the name of its profile.
    """
    name, whole, memory = "GPU", "", 0
    with suppress(DeviceError, ValueError):
        for own, mig, listed in _NAMED.findall(_ask(PROGRAM, "-L")):
            whole = own or whole
            if listed == uuid:
                name = f"{whole} {mig}".strip()
        if not uuid.startswith("MIG-"):
            total = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
            memory = int(_ask(PROGRAM, *total, f"--id={uuid}")) << 20
    return Device(name, memory, precision)


def describe_local(precision: str) -> Device:
    """Return what the device of a job on this machine would be, without touching it.

    Args:
        precision: what it computes in; `auto` for what it would choose by itself.

    Raises:
        DeviceError: a driver is there that does not work, and GPUs are wanted.
    """
    gpus = find_gpus().uuids
    if precision == AUTO:
        precision = ON_GPU if gpus else ON_CPU
    return describe_gpu(gpus[0], precision) if gpus else describe_cpu(precision)


def describe_cpu(precision: str) -> Device:
    """Return what the CPU is, where it computes: its memory is what may not suffice."""
    return Device("CPU", memory_of_host(), precision)


@cache
def threads_of_job(cores: int) -> int:
    """Return how many threads a job takes: one with a GPU, all cores where the CPU computes."""
    try:
        return 1 if find_gpus().uuids else cores
    except DeviceError:
        return 1  # the job will say so


def _has_driver() -> bool:
    """Whether anything here looks like NVIDIA's driver, working or not."""
    return KERNEL_DRIVER.exists() or any(
        os.path.lexists(os.path.join(folder, PROGRAM)) for folder in _search_path()
    )


def _closed_folder() -> str:
    """Return a line on a folder in which no program can be looked for; empty if there is none."""
    closed = (f for f in _search_path() if os.path.isdir(f) and not os.access(f, os.X_OK))
    return next((f"{folder}, on PATH, may not be searched for {PROGRAM}" for folder in closed), "")


def _search_path() -> list[str]:
    return os.environ.get("PATH", os.defpath).split(os.pathsep)


def _list_gpus() -> Gpus:
    """Return what nvidia-smi lists; a GPU that is cut into MIG devices is those.

    Raises:
        DeviceError: it fails, does not answer, or may not be run.
    """
    if shutil.which(PROGRAM) is None:
        raise DeviceError(f"{PROGRAM} cannot be run (not found on PATH, or not executable)")
    answer = _ask(PROGRAM, "-L")
    uuids = _UUID.findall(answer)
    if not uuids:
        said = next(iter(answer.split("\n")), "").strip()[:200]
        return Gpus([], f"{PROGRAM} lists no GPU{f': {said}' if said else ''}")
    following = [*uuids[1:], ""]
    whole = [
        uuid
        for uuid, next_one in zip(uuids, following, strict=True)
        if not (uuid.startswith("GPU-") and next_one.startswith("MIG-"))
    ]
    return Gpus(whole)


def _ask(*command: str) -> str:
    """Return what a command prints; it and all its children are gone afterwards.

    Raises:
        DeviceError: it fails, or does not answer in time.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} cannot be run ({error.strerror})") from None
    try:
        answer, _ = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that waits for the driver cannot be killed
            process.wait(timeout=1)
        raise DeviceError(f"{command[0]} does not answer within {ANSWER_SECONDS:.0f} s") from None
    if process.returncode:
        said = next(iter(answer.strip().split("\n")), "")[:200]
        raise DeviceError(f"{command[0]} fails ({said or f'exit code {process.returncode}'})")
    return answer


# -- CUDA_VISIBLE_DEVICES --------------------------------------------------------------------------


def choose_visible(wanted: str, uuids: Sequence[str]) -> list[str]:
    """Return the GPUs that CUDA would see, in its order.

    Entries are all numbers, all beginnings of `GPU-` UUIDs or all of `MIG-` UUIDs, as the first
    one is. The list ends at the first entry that is none of them, or is not there, or could mean
    two; with an entry given twice there is no GPU at all. Source: CUDA C++ Programming Guide,
    "CUDA Environment Variables", and torch.cuda, which counts devices as CUDA does.
    """
    chosen: list[str] = []
    for entry in _entries(wanted):
        uuid = _find(entry, uuids)
        if uuid is None:
            break
        if uuid in chosen:
            return []
        chosen.append(uuid)
    return chosen


def _entries(wanted: str) -> list[str]:
    """Return the entries up to the first that cannot be one, whatever GPUs there are."""
    entries = [entry.strip() for entry in wanted.split(",")]
    kind = next((k for k in (r"GPU-", r"MIG-") if entries[0].startswith(k)), r"\+?\d")
    valid: list[str] = []
    for entry in entries:
        if not re.match(kind, entry):
            break
        valid.append(entry)
    return valid


def _find(entry: str, uuids: Sequence[str]) -> str | None:
    if number := re.match(r"\+?(\d+)", entry):
        place = int(number[1])
        return uuids[place] if place < len(uuids) else None
    if entry.startswith("MIG-") and not any(uuid.startswith("MIG-") for uuid in uuids):
        return entry  # which not every nvidia-smi lists
    found = [uuid for uuid in uuids if uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None
