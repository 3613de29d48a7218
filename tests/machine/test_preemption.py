import os
import signal

import pytest
from spotesm.machine import preemption
from spotesm.machine.preemption import Preempted, StopRequest


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_decides(number: signal.Signals, exit_code: int) -> None:
    with StopRequest() as stop:
        stop.leave_if_asked()
        assert not stop
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(Preempted) as caught:
            stop.leave_if_asked()
    assert caught.value.exit_code == exit_code


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_long_work_is_left_only_when_the_stop_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest() as stop:
        stop.leave_if_overdue()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.leave_if_overdue()  # just asked: a quick batch may end first
        monkeypatch.setattr(preemption, "GRACE_SECONDS", 0.0)
        with pytest.raises(Preempted):
            stop.leave_if_overdue()
