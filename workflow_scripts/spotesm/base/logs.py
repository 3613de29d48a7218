"""The logs of jobs: how their lines look, how they are written, how they are read back."""

import locale
import logging
import os
import sys
from collections.abc import Iterator
from copy import copy
from io import TextIOWrapper
from pathlib import Path

from spotesm.base.failures import explain_host_fault

LINE, TIME = "%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
GOES_ON = "the same command goes on from here"  # ends the log of a job that was asked to stop
QUIET = "SPOTESM_QUIET"  # in the environment of jobs whose logs a screen shows


class _WithoutTrace(logging.Formatter):
    """Writes the message alone; the log file has where an error came from."""

    def format(self, record: logging.LogRecord) -> str:
        bare = copy(record)
        bare.exc_info = bare.exc_text = None
        return super().format(bare)


class _LogFile(logging.FileHandler):
    """A log file whose disk may be full: that is told once, and ends nothing."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            error = sys.exc_info()[1]
            if isinstance(error, OSError):
                error.filename = self.baseFilename
            print(f"no log: {explain_host_fault(error) or error}", file=sys.stderr)


def print_any_letter() -> None:
    """Let what is printed have letters that the locale has not, such as in ids and paths."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return a text with what the locale cannot write escaped; for other programs' logs."""
    encoding = locale.getpreferredencoding(False)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def configure_logging(path: Path) -> None:
    """Send log lines to the file `path` and, without stack traces, to standard error.

    Where a screen reads the logs (`QUIET`), nothing goes to standard error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Paths of bytes that are no text reach a log, too.
    handlers: list[logging.Handler] = [_LogFile(path, encoding="utf-8", errors="backslashreplace")]
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


def was_stopped(path: Path) -> bool:
    """Whether a log ends with the job being asked to stop."""
    messages = list(read_messages(path))
    return bool(messages) and messages[-1][1].endswith(GOES_ON)
