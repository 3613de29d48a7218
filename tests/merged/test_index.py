"""The index against brute force."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm import Embeddings
from spotesm.base.failures import IncompleteError, InputError
from spotesm.hdf5 import pieces
from spotesm.hdf5.pieces import Piece, read_rows
from spotesm.merged import index
from spotesm.merged.index import Index, IndexWriter, check_index
from spotesm.sequences.digests import as_bytes, digests_of, hash_text
from tiny_dataset import write_dataset


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A merged file of four rows."""
    return write_dataset(tmp_path, monkeypatch) / "embeddings.h5"


def write(path: Path, ids: list[str], digests: np.ndarray, blocks: int) -> None:
    with IndexWriter(path.parent, len(ids)) as writer, h5py.File(path, "w") as file:
        for own in np.array_split(np.arange(len(ids)), blocks):
            keys = np.array([int.from_bytes(hash_text(ids[i])) for i in own], np.uint64)
            writer.add(keys, digests[own])
        writer.write(file)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 20])
def test_every_id_and_digest_is_found(tmp_path: Path, n: int) -> None:
    rng = random.Random(n)
    ids = [f"p{rng.randrange(max(1, n // 2))}" for _ in range(n)]
    digests = as_bytes(digests_of(b"%d" % rng.randrange(max(1, n // 2)) for _ in range(n)))
    write(tmp_path / "x.h5", ids, digests, 4)
    with h5py.File(tmp_path / "x.h5") as file:
        found = Index.of(file)
        if not n:
            assert found is None
            return
        for identifier in {*ids, "absent"}:
            expected = [row for row, own in enumerate(ids) if own == identifier]
            assert found.candidates(identifier) == expected
        keys = [digest.tobytes() for digest in digests]
        expected = [keys.index(key) for key in keys]
        assert found.rows_of_digests(digests).tolist() == expected
        assert found.rows_of_digests(as_bytes(digests_of([b"absent"]))).tolist() == [-1]
        asked = [*ids[::-1], "absent", *ids]
        first = [ids.index(i) if ids.count(i) == 1 else -1 for i in asked]
        assert found.rows_of_ids(asked).tolist() == first
        stored = file["index/digest_keys"][:]
        assert (np.diff(stored.astype(object)) > 0).all()
        assert len(stored) == len(set(keys))


@pytest.mark.parametrize("repeats", [100, 300])
@pytest.mark.parametrize("key", [26, 128, 230])
def test_one_id_many_times(tmp_path: Path, key: int, repeats: int) -> None:
    """More often than a look-up reads at first: beyond its end, both ends, or its beginning."""
    same = next(f"s{i}" for i in range(9999) if hash_text(f"s{i}")[0] == key)
    ids = [f"p{i}" for i in range(400)]
    for row in random.Random(repeats).sample(range(400), repeats):
        ids[row] = same
    write(tmp_path / "x.h5", ids, as_bytes(digests_of(map(str.encode, ids))), 4)
    with h5py.File(tmp_path / "x.h5") as file:
        found = Index.of(file)
        expected = [row for row, own in enumerate(ids) if own == same]
        assert found.candidates(same) == expected
        others = [row for row, own in enumerate(ids) if own != same]
        asked = [ids[row] for row in others]
        assert found.rows_of_ids([same, *asked]).tolist() == [-1, *others]
        assert [found.candidates(own) for own in asked] == [[row] for row in others]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each read of a piece takes, from now on."""
    read: Callable = Piece.read
    sizes: list[int] = []

    def counted(piece: Piece, start: int, end: int) -> np.ndarray:
        sizes.append(end - start)
        return read(piece, start, end)

    monkeypatch.setattr(Piece, "read", counted)
    return sizes


def test_a_look_up_reads_a_small_part_of_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(index, "ENTRIES_AT_ONCE", 1 << 20)
    ids = [f"p{i}" for i in range(4000)]
    write(tmp_path / "x.h5", ids, as_bytes(digests_of(map(str.encode, ids))), 4)
    with h5py.File(tmp_path / "x.h5") as file:
        found = Index.of(file)
        for row in range(0, 4000, 101):
            assert found.candidates(ids[row]) == [row]
            assert sum(sizes) < 1000
            sizes.clear()


def test_a_file_without_index(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert Index.of(file) is None


def test_a_file_that_shrinks_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """In a process that has it open already."""
    path = tmp_path / "x.h5"
    ids = [f"p{i}" for i in range(5000)]
    write(path, ids, as_bytes(digests_of(map(str.encode, ids))), 3)
    with h5py.File(path) as file:
        found = Index.of(file)
        assert found.candidates("p4999") == [4999]
        with open(path, "r+b") as raw:
            raw.truncate(3000)
        with pytest.raises(InputError, match=r"x\.h5: has become shorter"):
            found.rows_of_ids(ids)
        with pytest.raises(InputError, match=r"x\.h5: has become shorter"):
            found.candidates("p4999")


def test_rows_are_read_some_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Those close to each other at once, but never more than fits beside what is asked for."""
    values = np.arange(40 * 8, dtype=np.float32).reshape(40, 8)
    monkeypatch.setattr(pieces, "BYTES_AT_ONCE", 6 * values[0].nbytes)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = values
    with h5py.File(tmp_path / "x.h5") as file:
        for rows in (np.arange(40), np.arange(0, 40, 2), np.array([0, 1, 39]), np.array([], int)):
            assert read_rows(file["x"], rows).tolist() == values[rows].tolist()
        assert sizes[0] == 40
        assert max(sizes[1:]) == 5
        assert len(sizes) == 1 + 7 + 2


def test_what_does_not_lie_in_one_piece(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", data=np.arange(9), chunks=(3,))
        file.create_dataset("b", 0, np.int64)
        file["c"] = np.arange(20).reshape(5, 4)
        file.create_dataset("d", data=["x"], dtype=h5py.string_dtype())
    with h5py.File(tmp_path / "x.h5") as file:
        assert [Piece.of(file[name]) for name in "abd"] == [None] * 3
        assert Piece.of(file["c"]).read(1, 4).tolist() == file["c"][1:4].tolist()


def test_a_merged_file_is_asked_by_its_index(result: Path) -> None:
    """Rows are the same with the index that the merge wrote, and without."""
    with Embeddings(result) as embeddings:
        assert "index" in embeddings.file
        found = {i: embeddings.rows_of(i) for i in [*embeddings.ids, "absent"]}
        check_index(embeddings.file)
        with pickle.loads(pickle.dumps(embeddings)) as copy:  # as a DataLoader's workers get it
            assert copy.rows_of("again") == found["again"] == [2]
    with h5py.File(result, "r+") as file:
        del file["index"]
    with Embeddings(result) as embeddings:
        assert {i: embeddings.rows_of(i) for i in found} == found
        with pytest.raises(IncompleteError, match="its index is not whole"):
            check_index(embeddings.file)


@pytest.mark.parametrize("name", ["id_keys", "id_rows", "digest_keys", "digest_rows"])
def test_without_its_whole_index_a_file_is_read_and_not_verified(result: Path, name: str) -> None:
    with Embeddings(result) as embeddings:
        before = {i: embeddings.rows_of(i) for i in embeddings.ids}
    with h5py.File(result, "r+") as file:
        del file[f"index/{name}"]
    with Embeddings(result) as embeddings:
        assert {i: embeddings.rows_of(i) for i in before} == before
        with pytest.raises(IncompleteError, match="its index is not whole"):
            check_index(embeddings.file)


@pytest.mark.parametrize("asked", ["!", "~"])  # before and behind all ids
def test_an_id_that_shares_its_key_with_another_is_not_that_one(result: Path, asked: str) -> None:
    key = np.uint64(int.from_bytes(hash_text(asked), "big"))
    with h5py.File(result, "r+") as file:
        keys = file["index/id_keys"]
        keys[min(np.searchsorted(keys[:], key), len(keys) - 1)] = key
    with Embeddings(result) as embeddings:
        assert len(Index.of(embeddings.file).candidates(asked)) == 1
        assert asked not in embeddings
        with pytest.raises(KeyError):
            embeddings.find_rows([asked])


@pytest.mark.parametrize("name", ["id_keys", "id_rows", "digest_keys", "digest_rows"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_damaged_index_is_noticed(result: Path, name: str, place: int) -> None:
    with h5py.File(result, "r+") as file:
        file[f"index/{name}"][place] += 1
    with (
        Embeddings(result) as embeddings,
        pytest.raises(IncompleteError, match="its index does not find each"),
    ):
        check_index(embeddings.file)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Twenty rows with repeated ids and digests, in several blocks, and their index."""
    ids, texts = [f"p{row % 13}" for row in range(20)], [b"%d" % (row % 11) for row in range(20)]
    write(tmp_path / "x.h5", ids, as_bytes(digests_of(texts)), 4)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["sequence_ids"], file["digests"] = ids, as_bytes(digests_of(texts))
        check_index(file)
    return tmp_path / "x.h5"


def notices(path: Path, name: str, keys: np.ndarray, rows: np.ndarray) -> bool:
    """Whether the check notices these entries in place of those that are there."""
    with h5py.File(path, "r+") as file:
        for of, values in (("keys", keys), ("rows", rows)):
            del file[f"index/{name}_{of}"]
            file[f"index/{name}_{of}"] = values
    with h5py.File(path) as file:
        try:
            check_index(file)
        except IncompleteError as error:
            assert f"does not find each {name}" in str(error)
            return True
    return False


@pytest.mark.parametrize("name", ["id", "digest"])
def test_entries_out_of_order_or_missing_are_noticed(indexed: Path, name: str) -> None:
    """Neighbours change places, also those in different blocks; the rows have each of them."""
    with h5py.File(indexed) as file:
        keys, rows = file[f"index/{name}_keys"][:], file[f"index/{name}_rows"][:]
    for place in range(len(keys) - 1):
        swapped = np.arange(len(keys))
        swapped[[place, place + 1]] = place + 1, place
        assert notices(indexed, name, keys[swapped], rows[swapped])
    for place in (0, 8, -1):
        assert notices(indexed, name, np.delete(keys, place), np.delete(rows, place))
    assert not notices(indexed, name, keys, rows)


def test_a_digest_leads_to_its_first_row(indexed: Path) -> None:
    with h5py.File(indexed) as file:
        keys, rows = file["index/digest_keys"][:], file["index/digest_rows"][:]
    for place in np.flatnonzero(rows < 9):  # rows 11 to 19 repeat them
        later = rows.copy()
        later[place] += 11
        assert notices(indexed, "digest", keys, later)
