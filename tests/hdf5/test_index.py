"""The index against brute force."""

import gzip
import pickle
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm import Embeddings
from spotesm.base.failures import IncompleteError
from spotesm.hdf5 import index, integrity
from spotesm.hdf5.index import Index, IndexWriter
from spotesm.hdf5.integrity import check_index
from spotesm.hdf5.mapping import map_dataset
from spotesm.hdf5.merge import MergeJob, merge_shards
from spotesm.sequences.digests import as_bytes, digests_of

DATA = Path(__file__).parents[1] / "data/format-1"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(integrity, "ROWS_AT_ONCE", 3)


@pytest.fixture
def old_result(tmp_path: Path) -> Path:
    """A merged file of four rows; its shard is one that is kept for ever."""
    (tmp_path / "1-of-1.h5").write_bytes(gzip.decompress((DATA / "1-of-1.h5.gz").read_bytes()))
    merge_shards(
        MergeJob(
            shards=[tmp_path / "1-of-1.h5"],
            split=DATA / "split.json",
            split_rejected=DATA / "split-rejected.tsv",
            output=tmp_path / "embeddings.h5",
            rejected=tmp_path / "rejected.tsv",
            summary=tmp_path / "summary.json",
            max_rejected=1.0,
            nucleotide=False,
            compression=None,
            config={},
        )
    )
    return tmp_path / "embeddings.h5"


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
            assert found.candidates(identifier) == expected
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


def test_a_merged_file_is_asked_by_its_index(old_result: Path) -> None:
    """Rows are the same with the index that the merge wrote, and without."""
    with Embeddings(old_result) as embeddings:
        assert "index" in embeddings.file
        found = {i: embeddings.rows_of(i) for i in [*embeddings.ids, "absent"]}
        check_index(embeddings)
        with pickle.loads(pickle.dumps(embeddings)) as copy:  # as a DataLoader's workers get it
            assert copy.rows_of("again") == found["again"] == [2]
    with h5py.File(old_result, "r+") as file:
        del file["index"]
    with Embeddings(old_result) as embeddings:
        assert {i: embeddings.rows_of(i) for i in found} == found
        check_index(embeddings)


@pytest.mark.parametrize("name", ["id_keys", "id_rows", "digest_keys", "digest_rows"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_damaged_index_is_noticed(old_result: Path, name: str, place: int) -> None:
    with h5py.File(old_result, "r+") as file:
        file[f"index/{name}"][place] += 1
    with (
        Embeddings(old_result) as embeddings,
        pytest.raises(IncompleteError, match="its index does not find"),
    ):
        check_index(embeddings)
