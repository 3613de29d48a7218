"""One run at a time on a dataset: a lock that goes away with its process, and who holds it."""

import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

from spotesm.base.durable import make_directory, read_json, write_json
from spotesm.base.failures import NoLocksError, UserError
from spotesm.base.locks import try_lock
from spotesm.base.paths import RESULTS, DatasetPaths

WAIT_SECONDS = 60.0  # for a run that is about to end
POLL_SECONDS = 0.2


class DatasetBusyError(UserError):
    """Another run is at work on the same dataset."""

    passing = True


def occupy(stack: ExitStack, names: Iterable[str], results: Path = RESULTS) -> None:
    """Hold the locks of datasets until `stack` is closed, or this process ends, however it does.

    Raises:
        DatasetBusyError: another run holds one; says which, since when, and what to do.
    """
    for name in names:
        paths = DatasetPaths.of(name, results)
        _hold(stack, paths)
        who = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
        }
        write_json(paths.run, who)


def wait_until_free(
    names: Iterable[str],
    say: Callable[[str], None],
    wait: float = WAIT_SECONDS,
    results: Path = RESULTS,
) -> None:
    """Return when no run is at work on datasets.

    Args:
        say: is told once, if there is one.

    Raises:
        DatasetBusyError: there still is after `wait` seconds.
    """
    end, names, told = time.monotonic() + wait, list(names), False
    while True:
        with ExitStack() as stack:
            try:
                for name in names:
                    _hold(stack, DatasetPaths.of(name, results))
            except DatasetBusyError as error:
                if time.monotonic() > end:
                    raise
                if not told:
                    say(f"{error} Waiting for it ...")
                told = True
            else:
                return
        time.sleep(POLL_SECONDS)


def _hold(stack: ExitStack, paths: DatasetPaths) -> None:
    make_directory(paths.folder)
    with suppress(NoLocksError):  # shards have locks of their own, perhaps elsewhere
        if not stack.enter_context(try_lock(paths.lock, "--directory")):
            raise DatasetBusyError(_describe(paths))


def _describe(paths: DatasetPaths) -> str:
    try:
        who = read_json(paths.run)
        what = f"process {who['pid']} on {who['host']}, since {who['since']}"
        end = f"kill {who['pid']}, there"
    except (OSError, ValueError, KeyError, TypeError):
        what, end = "a process", "kill it"
    return (
        f"{paths.folder}: another run is at work on this dataset ({what}); wait for it, or end it "
        f"({end}: it saves first), and run the same command again."
    )
