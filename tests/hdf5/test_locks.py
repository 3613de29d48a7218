"""Merged files on a file system without locks, by a flock that fails (HDF5 calls it from C)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from merged import write_merged
from preload import NO_LOCKS, preload

READ = "import sys; from spotesm import Embeddings; print(Embeddings(sys.argv[1])['b'].tolist())"


def test_a_merged_file_is_read_without_locks(tmp_path: Path) -> None:
    rows = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    file = write_merged(tmp_path / "x.h5", ["a", "b", "c"], mean_6=rows)
    library = preload(tmp_path, NO_LOCKS)
    read = subprocess.run(
        [sys.executable, "-c", READ, file],
        env={**os.environ, **library, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout == "[3.0, 4.0]\n"
