"""What can go wrong: its types, how an exception is told, and errors that a user understands."""

import errno
import re

import torch

# Types of failure, in the journal; the first three are also why a record is rejected.
OUT_OF_MEMORY = "out_of_memory"
CUDA_RUNTIME = "cuda_runtime"
NOT_FINITE = "not_finite"
GENERIC = "generic"

# What torch says where it has no exception type of its own: of the host's memory, and of CUDA's
# libraries. Checked in this order.
_OUT_OF_MEMORY_TEXT = re.compile(
    r"\bout of memory\b|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc"
)
_CUDA_TEXT = re.compile(
    r"\bCUDA (driver )?error\b|\b(CUBLAS|CUDNN|CUSOLVER)_STATUS_|device-side assert"
)

_DISK_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your quota is used up; free some space",
    errno.EFBIG: "a file may not grow that large here; raise the limit",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EACCES: "access is denied; mend the permissions",
    errno.EPERM: "access is denied; mend the permissions",
    errno.ENOENT: "a file has vanished; put it back",
    errno.EIO: "the disk does not answer; check it",
}


class UserError(Exception):
    """Something outside the code is wrong: an input, a setting, a file, the machine.

    Its message is shown alone, without a stack trace.
    """


class InputError(UserError):
    """An input file cannot be read as FASTA; names the file and, where known, the line."""


class WeightsError(UserError):
    """A weights file is missing, damaged, or not the model the config names."""


class ShardBusyError(UserError):
    """Another process is writing the same shard."""


class IncompleteError(UserError):
    """A result does not add up: a record is missing, doubled, not finite, or of other settings."""


class TooManyRejectedError(UserError):
    """More records were rejected than the config allows."""


def classify(error: BaseException) -> str:
    """Return the type of a failure: from the exception's type, from text where torch has none."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and _OUT_OF_MEMORY_TEXT.search(text):
        return OUT_OF_MEMORY
    if isinstance(error, torch.AcceleratorError):
        return CUDA_RUNTIME
    if isinstance(error, RuntimeError) and _CUDA_TEXT.search(text):
        return CUDA_RUNTIME
    return GENERIC


def explain_host_fault(error: BaseException) -> str | None:
    """Return one line on a fault of disk or file system, and what to do; None for all else."""
    if not isinstance(error, OSError):
        return None
    # HDF5 has the system's error number in its message only.
    number = error.errno or int((re.search(r"errno = (\d+)", str(error)) or [0, 0])[1])
    if number not in _DISK_FAULTS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{_DISK_FAULTS[number]} and run again; what is finished stays ({error})"
