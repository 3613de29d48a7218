"""Signals that ask the process to stop, turned into a flag that the work looks at."""

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

log = logging.getLogger(__name__)

# Of Linux's prctl(2); elsewhere what they are for is left out.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
Handler = Callable[[int, FrameType | None], object] | int | None

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def catch_stop_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Handler]:
    """Let a function handle the signals that ask to stop; return what handled each before.

    One that is ignored stays so: `nohup` means it.
    """
    return {
        number: signal.signal(number, handler)
        for number in STOP_SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN
    }


def stop_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child of the process `parent` calls to get SIGTERM when that dies."""

    def stop() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # dead already
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def adopt_orphans() -> None:
    """Become the parent of all below whose own parent dies, so that they can be waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class Preempted(Exception):
    """The process was asked to stop, and its state is safe on disk."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


GRACE_SECONDS = 2.0


class StopRequest:
    """Whether a stop was asked for.

    While it is entered, the signals only set the flag: no I/O, no lock, no CUDA call happens in
    the handler, and further signals change nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = 0.0

    def __enter__(self) -> "StopRequest":
        self._previous = catch_stop_signals(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            self._asked = time.monotonic()

    def __bool__(self) -> bool:
        return self.signal is not None

    def leave_if_asked(self) -> None:
        """Raise `Preempted` if a stop was asked for; call where everything done is on disk."""
        if self.signal is not None:
            raise Preempted(self.signal)

    def leave_if_overdue(self) -> None:
        """Raise `Preempted` if a stop was asked for some time ago; call within long work.

        So a batch in flight is finished if that is quick, and abandoned if not.
        """
        if self.signal is not None and time.monotonic() - self._asked > GRACE_SECONDS:
            raise Preempted(self.signal)
