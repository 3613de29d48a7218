"""What can go wrong: types of failure, errors that a user understands, faults of the disk."""

import errno
import os
import re

# Types of failure, in the journal; the first three are also why a record is rejected.
OUT_OF_MEMORY = "out_of_memory"
CUDA_RUNTIME = "cuda_runtime"
NOT_FINITE = "not_finite"
GENERIC = "generic"

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


class ConfigError(UserError):
    """The config is wrong; names the key."""


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


def explain_host_fault(error: BaseException | None) -> str | None:
    """Return one line on a fault of disk or file system, and what to do; None for all else.

    Also finds a fault that another exception hides, as those of torch's zip writer do.
    """
    while error is not None:
        if isinstance(error, OSError | RuntimeError):
            number, path = _number_and_path(error)
            if number in _DISK_FAULTS:
                where = f"{path}: " if path else ""
                what = f"{_DISK_FAULTS[number]} and run again; what is finished stays"
                return f"{where}{what} ({os.strerror(number)})"
        error = error.__cause__ or error.__context__
    return None


def _number_and_path(error: OSError | RuntimeError) -> tuple[int, str]:
    """Return what an error is about; HDF5 has both in its message only, of either type."""
    number = re.search(r"errno = (\d+)", str(error))
    path = re.search(r"filename = '([^']*)'", str(error))
    return (
        getattr(error, "errno", None) or (int(number[1]) if number else 0),
        getattr(error, "filename", None) or (path[1] if path else ""),
    )
