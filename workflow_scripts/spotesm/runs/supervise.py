"""Signals to a run: passed on to Snakemake and to its jobs, which save before the run ends.

Snakemake by itself waits, on SIGTERM, for its jobs to end by themselves, and dies of SIGHUP.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

import psutil

from spotesm.machine.preemption import (
    STOP_SIGNALS,
    adopt_orphans,
    catch_stop_signals,
    stop_with_parent,
)

# Around jobs: they wait for them, and would end first if they were told.
SHELLS = ("sh", "bash", "dash")
WAIT_SECONDS = 600.0  # at most, for what jobs write after they were asked to stop


def supervise(line: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run Snakemake as a child; return the exit code, once nothing that it started is left.

    SIGTERM, SIGINT and SIGHUP are passed on, and give 143, 130 and 129. Where this process is
    killed, Snakemake is told to stop. As a container's first process it reaps, too.
    """
    adopt_orphans()
    received: list[int] = []
    children: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for pid in children:
            os.kill(pid, number)  # not reaped yet, so it is no other process

    catch_stop_signals(pass_on)
    process = subprocess.Popen(line, env=environment, preexec_fn=stop_with_parent(os.getpid()))
    children.append(process.pid)
    if received:  # when there was nobody yet to pass it on to
        os.kill(process.pid, received[0])
    with suppress(ChildProcessError):
        while True:
            pid = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid
            if pid == process.pid:
                children.clear()
            _, status = os.waitpid(pid, 0)
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                stop_jobs(signal.SIGTERM)  # what it left, if it was killed
    if received:
        return 128 + received[0]
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def stop_jobs(number: int) -> list[psutil.Process]:
    """Pass a signal on to all that this process has started; return them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name() not in SHELLS:
                process.send_signal(number)
                found.append(process)
    return found


class StopWithJobs:
    """What Snakemake's own process does on signals: its jobs are told, and it waits for them."""

    def __init__(self) -> None:
        self._stopped: list[psutil.Process] = []

    def begin(self) -> None:
        """Catch the signals, in place of Snakemake."""
        catch_stop_signals(self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:  # a second Ctrl-C would not wait for what is being written
            if signal.getsignal(other) != signal.SIG_IGN:
                signal.signal(other, lambda *_: None)
        self._stopped = stop_jobs(number)
        raise KeyboardInterrupt  # as Ctrl-C: nothing is started any more, jobs elsewhere are ended

    def wait(self) -> None:
        """Return when all that was told to stop has ended."""
        psutil.wait_procs(self._stopped, timeout=WAIT_SECONDS)
