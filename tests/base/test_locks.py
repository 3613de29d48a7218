import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest
from spotesm.base.failures import UserError, may_pass
from spotesm.base.locks import try_lock


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
        pytest.raises(UserError) as caught,
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
