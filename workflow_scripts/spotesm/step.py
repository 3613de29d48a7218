"""What the steps of the workflow share: a log file, plain error lines, honest exit codes."""

import logging
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spotesm.base.durable import read_json, write_json
from spotesm.base.failures import UserError, explain_host_fault, may_pass
from spotesm.base.logs import GOES_ON, configure_logging, print_any_letter
from spotesm.machine.preemption import Preempted, stop_with_parent

log = logging.getLogger(__name__)

FAULTS = "SPOTESM_FAULTS"
RUN = "SPOTESM_RUN"  # names a run of Snakemake, to all attempts at all its jobs
KEEP_SHARDS = "SPOTESM_KEEP_SHARDS"  # whether the files of shards stay when they are merged


def name_run(anew: bool) -> str:
    """Return the name of this run of Snakemake, which reaches its jobs by their environment.

    Args:
        anew: whether a run begins; its jobs, on whatever machine, keep the name they were given.
    """
    if anew or RUN not in os.environ:
        os.environ[RUN] = uuid.uuid4().hex
    return os.environ[RUN]


def tell_jobs(name: str, is_so: bool) -> bool:
    """Return whether something is so, which jobs of this run know by their environment."""
    if is_so:
        os.environ[name] = "1"
    return name in os.environ


@contextmanager
def step(log_file: str) -> Iterator[None]:
    """Run one step of the workflow: log to `log_file`, and end the process as it deserves.

    Exit code 143 after SIGTERM and 130 after SIGINT, 1 with one line after a `UserError` or a
    fault of the disk. Any other exception is a bug of ours and keeps its stack trace.

    Snakemake tries again whatever has failed. What cannot pass by itself leaves a mark beside the
    log, on which later attempts of the same run end at once, with the same line.
    """
    print_any_letter()
    stop_with_parent(os.getppid())()
    path = Path(log_file)
    try:
        configure_logging(path)
    except OSError as error:
        sys.exit(explain_host_fault(error) or f"{path}: {error}")
    if settled := _read_mark(path):
        log.error("%s", settled)
        sys.exit(1)
    if FAULTS in os.environ:
        from spotesm.embed import faults  # here, so that no other run pays for it

        faults.install(os.environ[FAULTS])
    try:
        yield
    except Preempted as stop:
        log.warning("%s; %s", stop, GOES_ON)
        sys.exit(stop.exit_code)
    except UserError as error:
        _fail(path, error, str(error))
        sys.exit(1)
    except Exception as error:
        fault = explain_host_fault(error)
        if fault:
            _fail(path, error, fault)
            logging.shutdown()
            # HDF5 would try once more to write what did not fit, and crash.
            os._exit(1)
        log.exception("%s: %s", type(error).__name__, str(error).partition("\n")[0])
        sys.exit(1)


def _fail(path: Path, error: Exception, line: str) -> None:
    log.error("%s", line)
    if RUN in os.environ and not may_pass(error):
        with suppress(OSError):  # then it is tried again, that is all
            write_json(_mark_of(path), {"run": os.environ[RUN], "error": line})


def _read_mark(path: Path) -> str:
    """Return the line with which an earlier attempt of this run failed for good, if one did."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        mark = read_json(_mark_of(path))
        if mark["run"] == os.environ.get(RUN):
            return mark["error"]
        _mark_of(path).unlink()
    return ""


def _mark_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.failed.json")
