import os
import signal

import pytest
from spotesm.preemption import Preempted, StopRequest


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
