"""The logs of jobs: how their lines look, how they are written, how they are read back."""

import logging
import os
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path

LINE, TIME = "%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
QUIET = "SPOTESM_QUIET"  # in the environment of jobs whose logs a screen shows


class _WithoutTrace(logging.Formatter):
    """Writes the message alone; the log file has where an error came from."""

    def format(self, record: logging.LogRecord) -> str:
        bare = copy(record)
        bare.exc_info = bare.exc_text = None
        return super().format(bare)


def configure_logging(path: Path) -> None:
    """Send log lines to the file `path` and, without stack traces, to standard error.

    Where a screen reads the logs (`QUIET`), nothing goes to standard error.
    """
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
    if not os.environ.get(QUIET):
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(
        level=logging.INFO, format=LINE, datefmt=TIME, handlers=handlers, force=True
    )
    for console in handlers[1:]:
        console.setFormatter(_WithoutTrace(LINE, TIME))


def read_messages(path: Path) -> Iterator[tuple[str, str]]:
    """Yield level and message of every line of a log, whatever else is in it.

    Lines of stack traces, and those of other programs, are left out; so is a log that is gone.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        match line.split(" ", 2):
            case [_, level, message] if level in logging.getLevelNamesMapping():
                yield level, message


def last_error(path: Path) -> str:
    """Return the message of the last error in a log; empty if there is none."""
    errors = [message for level, message in read_messages(path) if level == "ERROR"]
    return errors[-1].strip() if errors else ""
