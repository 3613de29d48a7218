"""Locks that the kernel frees when their process dies, however it dies."""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spotesm.base.failures import NoLocksError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKS = 1.0

# What flock says where the file system has none: Lustre mounted without it, some NFS and FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def try_lock(path: Path, elsewhere: str, wait: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file if it can be had within `wait` seconds; whether it was.

    Args:
        elsewhere: the setting that puts the file on another file system.

    Raises:
        NoLocksError: the file system has no locks.
    """
    # A lock by mere presence, which is filelock's way out, would outlive a killed process.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise NoLocksError(
            f"{path.parent}: its file system has no locks ({error.strerror}); set {elsewhere} "
            "to a folder on another one, or have it mounted with flock"
        ) from error
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def hold_lock(
    path: Path, elsewhere: str, check_stop: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock of a file, however long another process has it first.

    Args:
        elsewhere: the setting that puts the file on another file system.
        check_stop: called now and then while it waits; what it raises ends that.

    Raises:
        NoLocksError: the file system has none.
    """
    wait = 0.0
    while True:
        with try_lock(path, elsewhere, wait) as free:
            if free:
                yield
                return
        if not wait:
            log.info("%s: another process has this lock; waiting for it", path)
        wait = SECONDS_BETWEEN_CHECKS
        check_stop()
