"""Faults of disk and system: one line each, that names the file and where it lies."""

import errno
import os
from pathlib import Path

import h5py
import pytest
import torch
from spotesm.base import failures
from spotesm.base.durable import read_umask, replacing
from spotesm.base.failures import (
    DeviceError,
    IncompleteError,
    InputError,
    ShardBusyError,
    TooManyRejectedError,
    UserError,
    WeightsError,
    explain_host_fault,
    may_pass,
    writing,
)
from spotesm.base.journal import Journal

PASSING = {
    *("ENOSPC", "EDQUOT", "ENOENT", "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN"),
    *("EHOSTUNREACH", "ENOTCONN", "ENODEV", "ENXIO", "EBUSY", "EAGAIN", "ENFILE", "ENOMEM"),
}
FINAL = {
    *("EFBIG", "EROFS", "EACCES", "EPERM", "EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG"),
    *("ELOOP", "EMFILE", "EUCLEAN", "ENOLCK", "EOPNOTSUPP"),
}


def fault(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize("name", sorted(PASSING | FINAL))
def test_each_fault_is_one_line_that_says_where(tmp_path: Path, name: str) -> None:
    number = getattr(errno, name)
    path = tmp_path / "no" / "such" / "part.pt"
    line = explain_host_fault(fault(number, str(path)))
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert os.strerror(number) in line
    mount = tmp_path
    while not mount.is_mount():
        mount = mount.parent
    assert f"; file system {mount}, " in line
    free = int(line.partition(f"{mount}, ")[2].partition(" bytes free")[0].replace(",", ""))
    status = os.statvfs(tmp_path)
    assert abs(free - status.f_bavail * status.f_frsize) < 1 << 30  # others write, too
    assert may_pass(fault(number)) == (name in PASSING)


def test_the_table_has_no_other_row() -> None:
    assert set(failures._HOST_FAULTS) == {getattr(errno, name) for name in PASSING | FINAL}


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (UserError("x"), False),
        (InputError("x"), False),
        (WeightsError("x"), False),
        (IncompleteError("x"), False),
        (TooManyRejectedError("x"), False),
        (DeviceError("x"), True),
        (ShardBusyError("x"), True),
        (RuntimeError("a bug of ours"), True),
        (OSError("Unable to open file (bad signature)"), True),
    ],
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) == passes


def test_hdf5_and_torch_tell_in_their_text() -> None:
    full = fault(errno.ENOSPC, "x/part.pt")
    assert explain_host_fault(full).startswith("x/part.pt: the disk is full")
    hdf5 = OSError("Can't write data (file write failed: errno = 28, error message = 'No space')")
    assert explain_host_fault(hdf5).startswith("the disk is full")
    closing = RuntimeError("Can't decrement id (file write failed: filename = 'x.h5', errno = 122)")
    assert explain_host_fault(closing).startswith("x.h5: your quota is used up")
    lock = OSError("Unable to open file (unable to lock file, errno = 37, error message = 'No')")
    assert "checkpoint: dir" in explain_host_fault(lock)
    hiding = RuntimeError("PytorchStreamWriter failed")
    hiding.__context__ = full
    assert explain_host_fault(hiding).startswith("x/part.pt: the disk is full")
    assert explain_host_fault(OSError("Unable to open file (bad signature)")) is None
    assert explain_host_fault(RuntimeError("no room")) is None
    assert explain_host_fault(None) is None


def test_without_a_name_it_is_said_where_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise fault(errno.EPERM)

    monkeypatch.setattr(os, "umask", refuse)
    with pytest.raises(OSError, match="not permitted") as caught:
        read_umask()
    line = explain_host_fault(caught.value)
    assert line.endswith("(Operation not permitted; in base.durable.read_umask)")
    assert explain_host_fault(fault(errno.EPERM)).endswith("(Operation not permitted)")


def test_what_was_renamed_is_named_by_its_final_name() -> None:
    error = OSError(errno.ENOSPC, "No space", "x/.part.tmp", None, "x/part.pt")
    assert explain_host_fault(error).startswith("x/part.pt: ")


def tensors(path: Path) -> None:
    with open(path, "wb") as file:  # of a path alone, torch forgets what was wrong
        torch.save(torch.zeros(1 << 20), file)


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = torch.zeros(1 << 20).numpy()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(1 << 20)),
        tensors,
        hdf5,
    ],
    ids=["bytes", "torch", "hdf5"],
)
def test_a_full_disk_names_the_file_that_was_to_be(tmp_path: Path, write: object) -> None:
    """Even if the error does not, or names a temporary one."""

    def fill() -> None:
        with replacing(tmp_path / "result") as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            write(temporary)

    with pytest.raises((OSError, RuntimeError)) as caught:
        fill()
    line = explain_host_fault(caught.value)
    assert line.startswith(f"{tmp_path / 'result'}: the disk is full; free some space and run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_journal_on_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        Journal(tmp_path / "journal.jsonl").record("start")
    assert explain_host_fault(caught.value).startswith(f"{tmp_path}/journal.jsonl: the disk is")


def test_another_file_keeps_its_name() -> None:
    """What fails while a file is written may be the reading of another one."""

    def read() -> None:
        with writing(Path("result"), Path(".result.tmp")):
            raise fault(errno.EIO, "input.fasta")

    with pytest.raises(OSError) as caught:
        read()
    assert explain_host_fault(caught.value).startswith("input.fasta: ")
