"""Signals that ask the process to stop, turned into a flag that the work looks at."""

import logging
import signal
import time
from types import FrameType

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """The process was asked to stop, and its state is safe on disk."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


GRACE_SECONDS = 2.0


class StopRequest:
    """Whether a stop was asked for.

    While it is entered, SIGTERM and SIGINT only set the flag: no I/O, no lock, no CUDA call
    happens in the handler, and further signals change nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = 0.0

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
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
