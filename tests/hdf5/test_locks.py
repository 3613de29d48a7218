"""Merged files that others have open, or that lie where there are no locks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from merged import write_merged
from preload import NO_LOCKS, preload
from spotesm.__main__ import main
from spotesm.base.failures import InputError
from spotesm.merged.reader import Embeddings

LOCKING = [None, False, True, "best-effort"]
READ = "import sys; from spotesm import Embeddings; print(Embeddings(sys.argv[1])['b'].tolist())"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    return write_merged(tmp_path / "x.h5", ["a", "b", "c"], mean_6=rows)


def test_a_merged_file_is_read_without_locks(tmp_path: Path, file: Path) -> None:
    """By a flock that fails, which HDF5 calls from C."""
    library = preload(tmp_path, NO_LOCKS)
    read = subprocess.run(
        [sys.executable, "-c", READ, file],
        env={**os.environ, **library, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout == "[3.0, 4.0]\n"


@pytest.mark.parametrize("locking", LOCKING)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_is_open_in_h5py_is_read_and_exported(
    tmp_path: Path, file: Path, locking: object, mode: str
) -> None:
    with h5py.File(file, mode, locking=locking) as theirs:
        with Embeddings(file) as embeddings, Embeddings(file) as again:
            assert embeddings["b"].tolist() == again["b"].tolist() == [3, 4]
            assert theirs["mean/6"][1].tolist() == [3, 4]
        main(["export", "h5", str(file), str(tmp_path / "export.h5")])
    with h5py.File(tmp_path / "export.h5") as exported:
        assert exported["b"][:].tolist() == [3, 4]


def test_a_file_that_is_open_here_is_read_by_h5py(file: Path) -> None:
    """As everybody opens it, without a word on locks."""
    with Embeddings(file) as embeddings, h5py.File(file) as theirs:
        assert theirs["mean/6"][1].tolist() == [3, 4]
        assert embeddings["b"].tolist() == [3, 4]


@pytest.mark.parametrize(("mode", "readable"), [("r", True), ("r+", True), ("w", False)])
def test_a_file_that_another_process_has_open_is_not_called_damaged(
    file: Path, mode: str, readable: bool
) -> None:
    code = f"import h5py, signal; f = h5py.File({str(file)!r}, {mode!r}); print(flush=True)"
    command = [sys.executable, "-c", f"{code}; signal.pause()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"\n"
            if readable:
                with Embeddings(file) as embeddings:
                    assert embeddings["b"].tolist() == [3, 4]
            else:
                with pytest.raises(InputError, match="another process is writing it; wait"):
                    Embeddings(file)
        finally:
            other.send_signal(signal.SIGKILL)


def test_a_truncated_file_is_still_called_so(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match="truncated or damaged"):
        Embeddings(file)
