"""What can go wrong: types of failure, errors that a user understands, faults of the disk."""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_LIBRARY = __name__.partition(".")[0]

# Types of failure, in the journal; the first three are also why a record is rejected.
OUT_OF_MEMORY = "out_of_memory"
CUDA_RUNTIME = "cuda_runtime"
NOT_FINITE = "not_finite"
GENERIC = "generic"


class UserError(Exception):
    """Something outside the code is wrong: an input, a setting, a file, the machine.

    Its message is shown alone, without a stack trace.

    Attributes:
        passing: whether it may be gone on the next try, without anybody's doing. What is not is
            tried once in a run.
    """

    passing = False


class ConfigError(UserError):
    """The config is wrong; names the key."""


class InputError(UserError):
    """An input file cannot be read as FASTA; names the file and, where known, the line."""


class WeightsError(UserError):
    """A weights file is missing, damaged, or not the model the config names."""


class DeviceError(UserError):
    """A GPU, or its driver, does not work; on the next try it may be another machine's."""

    passing = True


class ShardBusyError(UserError):
    """Another process is writing the same shard."""

    passing = True


class NoLocksError(UserError):
    """A file system has no locks; names the folder, and the setting for another one."""


class IncompleteError(UserError):
    """A result does not add up: a record is missing, doubled, not finite, or of other settings."""


class TooManyRejectedError(UserError):
    """More records were rejected than the config allows."""


# -- the disk, the file system, the operating system -----------------------------------------------


class HostFault(NamedTuple):
    """What the operating system says no to.

    Attributes:
        what: what is wrong, and what to do.
        passing: whether it may be gone on the next try, without anybody's doing.
    """

    what: str
    passing: bool


_NO_ANSWER = HostFault("the disk or its server does not answer; check it", passing=True)
_DENIED = HostFault("access is denied; mend the permissions", passing=False)
_NO_LOCKS = HostFault(
    "its file system has no locks; work on another one (checkpoint: dir for checkpoints), or have "
    "it mounted with flock",
    passing=False,
)
_HOST_FAULTS = {
    errno.ENOSPC: HostFault("the disk is full; free some space", passing=True),
    errno.EDQUOT: HostFault("your quota is used up; free some space", passing=True),
    errno.EFBIG: HostFault("a file may not grow that large here; raise the limit", passing=False),
    errno.EROFS: HostFault("the file system is read-only; make it writable", passing=False),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOENT: HostFault("a file has vanished; put it back", passing=True),
    errno.EEXIST: HostFault("something is in the way; move it elsewhere", passing=False),
    errno.ENOTDIR: HostFault("a file is where a folder should be; move it", passing=False),
    errno.EISDIR: HostFault("a folder is where a file should be; move it", passing=False),
    errno.ENAMETOOLONG: HostFault("a name is too long for the file system; shorten it", False),
    errno.ELOOP: HostFault("links lead round in a circle; mend them", passing=False),
    errno.EMFILE: HostFault("too many files are open; raise the limit (ulimit -n)", passing=False),
    errno.ENFILE: HostFault("too many files are open on this machine; close some", passing=True),
    errno.EIO: HostFault("the disk does not answer; check it", passing=True),
    errno.EREMOTEIO: _NO_ANSWER,
    errno.ESTALE: HostFault("the file server has forgotten a file; check it", passing=True),
    errno.ETIMEDOUT: _NO_ANSWER,
    errno.EHOSTDOWN: _NO_ANSWER,
    errno.EHOSTUNREACH: _NO_ANSWER,
    errno.ENOTCONN: _NO_ANSWER,
    errno.ENODEV: _NO_ANSWER,
    errno.ENXIO: _NO_ANSWER,
    errno.EUCLEAN: HostFault("the file system is damaged; have it checked", passing=False),
    errno.EBUSY: HostFault("something is in use; end what uses it", passing=True),
    errno.EAGAIN: HostFault("another process uses it; wait for that", passing=True),
    errno.ENOMEM: HostFault("memory has run out; give the job more", passing=True),
    errno.ENOLCK: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
}
# Of these, a write whose file the error does not name may be told by who wrote.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let a fault of the disk in this block name the file that is written, where it does not.

    Args:
        temporary: the name under which it is written; of no use to anybody in a message.
    """
    try:
        yield
    except Exception as error:
        if fault := _find_host_fault(error):
            number, named = _number_and_path(fault)
            if (not named and number in _OF_WRITING) or named == str(temporary):
                fault.filename, fault.filename2 = str(path), None
        raise


def explain_host_fault(error: BaseException | None) -> str | None:
    """Return one line on a fault of disk or file system, and what to do; None for all else.

    Also finds a fault that another exception hides, as those of torch's zip writer do.
    """
    fault = _find_host_fault(error)
    if fault is None:
        return None
    number, path = _number_and_path(fault)
    where, rest = (f"{path}: ", _describe_file_system(path)) if path else ("", _during(fault))
    return (
        f"{where}{_HOST_FAULTS[number].what} and run again; what is finished stays "
        f"({os.strerror(number)}{rest})"
    )


def may_pass(error: BaseException) -> bool:
    """Whether the next try of the same run may go well, without anybody's doing."""
    if isinstance(error, UserError):
        return error.passing
    fault = _find_host_fault(error)
    return fault is None or _HOST_FAULTS[_number_and_path(fault)[0]].passing


def _find_host_fault(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, OSError | RuntimeError):
            number, _ = _number_and_path(error)
            if number in _HOST_FAULTS:
                return error
        error = error.__cause__ or error.__context__
    return None


def _number_and_path(error: BaseException) -> tuple[int, str]:
    """Return what an error is about; HDF5 has both in its message only, of either type."""
    number = re.search(r"errno = (\d+)", str(error))
    path = re.search(r"filename = '([^']*)'", str(error))
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return (
        getattr(error, "errno", None) or (int(number[1]) if number else 0),
        os.fsdecode(named)
        if isinstance(named, str | bytes | os.PathLike)
        else path[1]
        if path
        else "",
    )


def _during(error: BaseException) -> str:
    """Return which of our functions an error that names no file comes from; empty if unknown."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames]
    ours = [f"{module}.{name}" for module, name in names if module.startswith(f"{_LIBRARY}.")]
    return f"; in {ours[-1].removeprefix(f'{_LIBRARY}.')}" if ours else ""


def _describe_file_system(path: str) -> str:
    """Return where the file system of a path is mounted, and its free bytes; empty if unknown."""
    with suppress(OSError, ValueError):
        mount = mount_of(Path(path))
        status = os.statvfs(mount)
        return f"; file system {mount}, {status.f_bavail * status.f_frsize:,} bytes free"
    return ""


def mount_of(path: Path) -> Path:
    """Return where the file system is mounted that a path lies on, or will."""
    place = path.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    place = place.resolve()
    while not place.is_mount():
        place = place.parent
    return place
