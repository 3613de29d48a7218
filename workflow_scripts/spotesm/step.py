"""What the steps of the workflow share: a log file, plain error lines, honest exit codes."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spotesm.base.failures import UserError, explain_host_fault
from spotesm.base.logs import configure_logging
from spotesm.machine.preemption import Preempted

log = logging.getLogger(__name__)

FAULTS = "SPOTESM_FAULTS"


@contextmanager
def step(log_file: str) -> Iterator[None]:
    """Run one step of the workflow: log to `log_file`, and end the process as it deserves.

    Exit code 143 after SIGTERM and 130 after SIGINT, 1 with one line after a `UserError` or a
    fault of the disk. Any other exception is a bug of ours and keeps its stack trace.
    """
    configure_logging(Path(log_file))
    if FAULTS in os.environ:
        from spotesm.embed import faults  # here, so that no other run pays for it

        faults.install(os.environ[FAULTS])
    try:
        yield
    except Preempted as stop:
        log.warning("%s; the same command goes on from here", stop)
        sys.exit(stop.exit_code)
    except UserError as error:
        log.error("%s", error)
        sys.exit(1)
    except Exception as error:
        fault = explain_host_fault(error)
        if fault:
            log.error("%s", fault)
            logging.shutdown()
            # HDF5 would try once more to write what did not fit, and crash.
            os._exit(1)
        log.exception("%s: %s", type(error).__name__, str(error).partition("\n")[0])
        sys.exit(1)
