"""The index against brute force."""

import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm.base.failures import IncompleteError
from spotesm.hdf5 import index
from spotesm.hdf5.index import Index, IndexWriter
from spotesm.hdf5.mapping import map_dataset
from spotesm.sequences.digests import as_bytes, digests_of


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ROWS_AT_ONCE", 3)


def write(path: Path, ids: list[str], digests: np.ndarray, blocks: int) -> None:
    with IndexWriter(path.parent) as writer, h5py.File(path, "w") as file:
        for own in np.array_split(np.arange(len(ids)), blocks):
            writer.add([ids[i] for i in own], digests[own])
        writer.write(file)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 20])
def test_every_id_and_digest_is_found(tmp_path: Path, n: int) -> None:
    rng = random.Random(n)
    ids = [f"p{rng.randrange(max(1, n // 2))}" for _ in range(n)]
    digests = as_bytes(digests_of(b"%d" % rng.randrange(max(1, n // 2)) for _ in range(n)))
    write(tmp_path / "x.h5", ids, digests, 4)
    with h5py.File(tmp_path / "x.h5") as file:
        found = Index.of(file)
        for identifier in {*ids, "absent"}:
            expected = [row for row, own in enumerate(ids) if own == identifier]
            assert found.rows_of_id(identifier).tolist() == expected
        keys = [digest.tobytes() for digest in digests]
        expected = [keys.index(key) for key in keys]
        assert found.rows_of_digests(digests).tolist() == expected
        assert found.rows_of_digests(as_bytes(digests_of([b"absent"]))).tolist() == [-1]
        stored = file["index/digest_keys"][:]
        assert (np.diff(stored.astype(object)) > 0).all()
        assert len(stored) == len(set(keys))


def test_a_file_without_index(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert Index.of(file) is None


def test_a_truncated_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(100_000)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(map_dataset(file["a"]), np.arange(100_000))
        with open(path, "r+b") as raw:
            raw.truncate(50_000)
        with pytest.raises(IncompleteError, match=r"x\.h5: is truncated"):
            map_dataset(file["a"])


def test_what_is_in_chunks_is_not_mapped(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert map_dataset(file.create_dataset("a", data=np.arange(9), chunks=(3,))) is None
        assert map_dataset(file.create_dataset("b", 0, np.int64)) is None
