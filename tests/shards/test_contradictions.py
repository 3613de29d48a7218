"""Files that are whole HDF5, but say of themselves what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm import Embeddings
from spotesm.base.durable import read_json
from spotesm.base.failures import IncompleteError, InputError
from spotesm.embed.earlier import Source
from spotesm.merged.index import check_index
from spotesm.merged.integrity import check_integrity
from spotesm.merged.merged_file import MergedFile
from spotesm.merged.reader import opened
from spotesm.request.results import Unusable
from spotesm.sequences.digests import digests_of, hash_text
from spotesm.sequences.sharding import Shard
from spotesm.shards.check import check_shard
from spotesm.shards.shard_file import ShardFile
from tiny_dataset import N_RECORDS, N_SEQUENCES, RECORDS, write_dataset


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole shard and its merged file, of a model of eight dimensions."""
    return write_dataset(tmp_path, monkeypatch)


def resize(file: h5py.File, name: str, by: int) -> None:
    """Make a dataset of records longer or shorter at its end."""
    values = file[name][:]
    dtype = file[name].dtype
    del file[name]
    values = values[:by] if by < 0 else np.concatenate([values, values[-1:]])
    file.create_dataset(name, data=values, dtype=dtype)


# -- a shard's file --------------------------------------------------------------------------------


def said_of_shard(folder: Path) -> str:
    shard, settings = Shard.index(folder / "1-of-1.fasta"), read_json(folder / "fingerprint.json")
    with pytest.raises(IncompleteError) as caught:
        check_shard(folder / "1-of-1.h5", shard, settings)
    return str(caught.value)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("sequences/reasons",), "does not say of every sequence what became of it"),
        (("sequences/details",), "does not say of every sequence what became of it"),
        (("sequences/windows",), "does not say of every record how long it is"),
        (("sequences/digests",), "has mean/0 in another shape than it says"),
        (("sequences/residues/offsets",), "has no place for the values of residues/0"),
        (("sequences/contacts/offsets",), "has no place for the values of contacts/values"),
        (("records/ordinals",), "does not hold the records of its FASTA"),
        (("records/sequences", "records/id_keys"), "does not hold the records of its FASTA"),
    ],
)
def test_every_row_is_spoken_of(folder: Path, names: tuple[str, ...], by: int, said: str) -> None:
    with h5py.File(folder / "1-of-1.h5", "r+") as file:
        assert len(file["sequences/windows"]) == N_SEQUENCES
        for name in names:
            resize(file, name, by)
    assert said in said_of_shard(folder)


@pytest.mark.parametrize("place", [0, N_RECORDS // 2, N_RECORDS - 1])
def test_keys_of_ids_in_a_shard_are_theirs(folder: Path, place: int) -> None:
    shard = Shard.index(folder / "1-of-1.fasta")
    keys = [int.from_bytes(hash_text(i)) for i in shard.read_ids()]
    with h5py.File(folder / "1-of-1.h5", "r+") as file:
        assert file["records/id_keys"][:].tolist() == keys
        file["records/id_keys"][place] ^= np.uint64(1)
    assert "does not hold the id_keys of its FASTA" in said_of_shard(folder)


@pytest.mark.parametrize("numbers", [[3, 0, 0, 0], [0, 0, 3, 0], [0, 1, 2, 3], [1, 1], []])
def test_origins_of_a_shard_are_named_for_each_sequence(folder: Path, numbers: list[int]) -> None:
    shard, settings = Shard.index(folder / "1-of-1.fasta"), read_json(folder / "fingerprint.json")
    with h5py.File(folder / "1-of-1.h5", "r+") as file:
        file["sequences/reused"] = np.array([0, 1, 2, 2], np.uint16)
        file.attrs["reused_from"] = ["a.h5", "b.h5"]
    check_shard(folder / "1-of-1.h5", shard, settings)
    with h5py.File(folder / "1-of-1.h5", "r+") as file:
        del file["sequences/reused"]
        file["sequences/reused"] = np.array(numbers, np.uint16)
    assert "does not say of every sequence w" in said_of_shard(folder)


# -- a merged file ---------------------------------------------------------------------------------


def test_origins_of_a_merged_file_are_named_for_each_row(folder: Path) -> None:
    path = folder / "embeddings.h5"
    with h5py.File(path) as file:
        n = len(file["digests"])
    right = np.arange(n) % 3
    for numbers, names in (
        (right, None),
        (None, ["a.h5", "b.h5"]),
        (right[:-1], ["a.h5", "b.h5"]),
        *(
            (np.where(np.arange(n) == place, 3, 0), ["a.h5", "b.h5"])
            for place in (0, n // 2, n - 1)
        ),
    ):
        with h5py.File(path, "r+") as file:
            for found in {"reused"} & file.keys():
                del file[found]
            for found in {"reused_from"} & file.attrs.keys():
                del file.attrs[found]
            if numbers is not None:
                file["reused"] = numbers.astype(np.uint16)
            if names:
                file.attrs["reused_from"] = names
        with (
            opened(path) as embeddings,
            pytest.raises(IncompleteError, match="whence it is reused"),
        ):
            check_integrity(embeddings)
    with h5py.File(path, "r+") as file:
        del file["reused"]
        file["reused"] = right.astype(np.uint16)
    for fault in (RuntimeError("a fault of ours"), KeyError("mean")):
        with pytest.raises(type(fault)) as caught, opened(path):
            raise fault
        assert caught.value is fault
    with opened(path) as embeddings:
        check_integrity(embeddings)


def name_another_model(file: h5py.File) -> None:
    fingerprint = json.loads(file.attrs["fingerprint"])
    file.attrs.update(model="esm9", fingerprint=json.dumps({**fingerprint, "model": "esm9"}))


def empty_the_index(file: h5py.File) -> None:
    del file["index"]
    file.create_group("index")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (name_another_model, "of esm9, which is no model we know"),
        (empty_the_index, "its index is not whole"),
    ],
    ids=["model", "index"],
)
def test_what_a_merged_file_cannot_be(
    folder: Path, change: Callable[[h5py.File], object], said: str
) -> None:
    path = folder / "embeddings.h5"
    with h5py.File(path, "r+") as file:
        change(file)
        if not len(file["index"]):
            for name in ("id_keys", "id_rows", "digest_keys", "digest_rows"):
                file.create_dataset(f"index/{name}", (3,), np.uint64, chunks=(1,))
    with opened(path) as embeddings, pytest.raises(IncompleteError, match=said):
        check_index(embeddings.file)
        check_integrity(embeddings)


def test_a_folder_that_cannot_be_read_is_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(InputError, match=r"embeddings.h5: cannot be read \(Permission denied\)"):
        Embeddings(folder / "embeddings.h5")


# -- reuse -----------------------------------------------------------------------------------------


def read_earlier(path: Path, of_shard: bool, keys: list[str], digests: np.ndarray) -> int:
    """Read what is asked for; of how many sequences something was found."""
    with Source(path, ShardFile if of_shard else MergedFile, "").opened() as earlier:
        _, rows = earlier.find(digests)
        return sum(len(results.digests) for results in earlier.read(np.sort(rows), keys))


def shorten(name: str) -> Callable[[h5py.File], None]:
    return lambda file: resize(file, name, -1)


def raise_by(more: int, name: str, place: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] += more

    return change


def as_doubles(file: h5py.File) -> None:
    values = file["mean/6"][:].astype(np.float64)
    del file["mean/6"]
    file["mean/6"] = values


def drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("1-of-1.h5", shorten("sequences/mean/6"), "has mean/6 in another shape"),
        ("embeddings.h5", as_doubles, "has mean/6 in another shape"),
        ("1-of-1.h5", shorten("sequences/lengths"), "does not say of every record how long it is"),
        ("embeddings.h5", shorten("windows"), "has no windows of each record"),
        *(
            (
                name,
                raise_by(1000, f"{table}residues/offsets", place),
                "has no place|too short|not asc",
            )
            for name, table in (("1-of-1.h5", "sequences/"), ("embeddings.h5", ""))
            for place in (0, 1, -1)
        ),
        ("1-of-1.h5", drop("sequences/residues/offsets"), "has no residues/offsets"),
        ("embeddings.h5", drop("residues/offsets"), "is damaged"),
        ("embeddings.h5", drop("windows"), "is damaged"),
    ],
)
def test_an_earlier_file_that_contradicts_itself_is_not_used(
    folder: Path, name: str, change: Callable[[h5py.File], None], said: str
) -> None:
    path, of_shard = folder / name, name != "embeddings.h5"
    digests = digests_of(sequence.encode() for _, sequence in RECORDS)
    held = N_SEQUENCES if of_shard else N_SEQUENCES - 1
    assert read_earlier(path, of_shard, ["mean/6", "residues/6"], np.unique(digests)) == held
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(Unusable, match=said):
        read_earlier(path, of_shard, ["mean/6", "residues/6"], np.unique(digests))


def test_an_earlier_shard_that_is_no_hdf5_is_not_used(folder: Path) -> None:
    (folder / "1-of-1.h5").write_bytes(b"rubbish")
    with (
        pytest.raises(Unusable, match="is not a whole shard file"),
        Source(folder / "1-of-1.h5", ShardFile, "").opened(),
    ):
        pass
