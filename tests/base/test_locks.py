import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest
from spotesm.base import locks
from spotesm.base.failures import NoLocksError, may_pass
from spotesm.base.locks import hold_lock, try_lock


def _hold(path: Path, ready: object) -> None:
    with try_lock(path, "x") as free:
        ready.send(free)
        ready.recv()


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    other = context.Process(target=_hold, args=(tmp_path / "lock", theirs))
    other.start()
    try:
        assert mine.recv() is True
        with try_lock(tmp_path / "lock", "x") as free:
            assert not free
        with try_lock(tmp_path / "lock", "x", wait=0.1) as free:
            assert not free
    finally:
        other.kill()
        other.join()
    for _ in range(2):
        with try_lock(tmp_path / "lock", "x") as free:
            assert free


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("wait", [0.0, 5.0])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wait: float
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(NoLocksError) as caught,
        try_lock(tmp_path / "lock", "checkpoint: dir", wait),
    ):
        pass
    assert str(caught.value).startswith(f"{tmp_path}: its file system has no locks (")
    assert "set checkpoint: dir to a folder on another one" in str(caught.value)
    assert not may_pass(caught.value)


def test_an_error_of_the_block_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), try_lock(tmp_path / "lock", "x") as free:
        assert free
        raise ZeroDivisionError
    with try_lock(tmp_path / "lock", "x") as free:
        assert free


def _wait(path: Path, pipe: object) -> None:
    with hold_lock(path, "x", check_stop=lambda: pipe.send("waits")):
        pipe.send("has it")


def test_who_waits_is_asked_and_gets_it_when_its_holder_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_CHECKS", 0.01)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", theirs))
    holder.start()
    assert mine.recv() is True
    waiting, child = context.Pipe()
    waiter = context.Process(target=_wait, args=(tmp_path / "lock", child))
    waiter.start()
    try:
        assert [waiting.recv() for _ in range(3)] == ["waits"] * 3
    finally:
        holder.kill()
        holder.join()
    try:
        said = "waits"
        while said == "waits":
            assert waiting.poll(60), "it waits for ever"
            said = waiting.recv()
        assert said == "has it"
    finally:
        waiter.kill()
        waiter.join()


def test_who_waits_may_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(locks, "SECONDS_BETWEEN_CHECKS", 0.01)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", theirs))
    holder.start()
    try:
        assert mine.recv() is True
        with pytest.raises(ZeroDivisionError), hold_lock(tmp_path / "lock", "x", stop):
            pass
    finally:
        holder.kill()
        holder.join()
