"""Damage, systematically: each dataset, each attribute, each value of a file is changed in turn.

What a check does not notice is named as harmless here, with the reason.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm.base.durable import read_json
from spotesm.base.failures import UserError
from spotesm.commands.verify import check
from spotesm.merged.reader import opened
from spotesm.sequences.sharding import Shard
from spotesm.shards.check import check_shard
from spotesm.shards.checkpoints import Thresholds, open_checkpoints
from tiny_dataset import write_dataset

FOR_THE_MERGE = "which reads these values first, and notices"
ROW_KEYS, RAGGED_KEYS = (
    ("mean/0", "mean/6", "bos/0", "bos/6"),
    ("residues/0", "residues/6", "logits/values", "contacts/values"),
)
HARMLESS_IN_A_SHARD = {
    "sequences/details": "phrases for people",
    "sequences/windows": "of an embedded record, any number from 1 on can be right: memory decides",
    **{f"sequences/{key}": FOR_THE_MERGE for key in RAGGED_KEYS},
    **{f"sequences/checksums/{key}": FOR_THE_MERGE for key in RAGGED_KEYS},
    **dict.fromkeys(
        [(f"sequences/{key}", "[2]") for key in ROW_KEYS],
        "of a rejected sequence, which has no values",
    ),
    "@weights": "where the weights came from; their sha256 is compared",
    **dict.fromkeys(("@n_computed", "@n_reused"), "how the work went"),
    "@n_resumed": "how the work went",
    "@attempts": "how the work went",
    "@seconds": "how the work went",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole shard, its parts, and the merged file, of a model of eight dimensions."""
    return write_dataset(tmp_path, monkeypatch)


def places(n: int) -> list[int]:
    return sorted({0, n // 2, n - 1}) if n else []


def other(value: object) -> object:
    """Something else of the same type."""
    match value:
        case str():
            return value + "x"
        case bytes():  # no longer than before: texts may be of one width
            return bytes([value[0] ^ 1]) + value[1:] if value else b"x"
        case np.bool_() | bool():
            return not value
        case np.ndarray() | np.floating() | np.integer() | int() | float():
            return value + 1
    raise AssertionError(f"cannot change {value!r}")


def datasets_of(path: Path) -> list[str]:
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) else None)
    return found


def changes_of(path: Path) -> Iterator[tuple[str, str]]:
    """Apply each change to a copy, `changed.h5`; yield what was changed, and how."""
    copy = path.with_name("changed.h5")
    for name in datasets_of(path):
        with h5py.File(path) as file:
            n = len(file[name])
        for place in places(n):
            shutil.copy(path, copy)
            with h5py.File(copy, "r+") as file:
                file[name][place] = other(file[name][place])
            yield name, f"[{place}]"
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            values = file[name][:-1]
            dtype = file[name].dtype
            del file[name]
            file.create_dataset(name, data=values, dtype=dtype)
        yield name, "one shorter"
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            del file[name]
        yield name, "gone"
    with h5py.File(path) as file:
        attributes = list(file.attrs)
    for name in attributes:
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            value = file.attrs[name]
            if isinstance(value, np.ndarray) and value.dtype == object:
                value[-1] = value[-1] + "x"
                file.attrs[name] = value
            else:
                file.attrs[name] = other(value)
        yield f"@{name}", "changed"
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            del file.attrs[name]
        yield f"@{name}", "gone"


def unnoticed_in_a_shard(folder: Path) -> Iterator[tuple[str, str]]:
    shard, settings = Shard.index(folder / "1-of-1.fasta"), read_json(folder / "fingerprint.json")
    check_shard(folder / "1-of-1.h5", shard, settings)
    for name, how in changes_of(folder / "1-of-1.h5"):
        try:
            check_shard(folder / "changed.h5", shard, settings)
        except UserError as error:
            assert "changed.h5: " in str(error)
        else:
            yield name, how


def test_a_changed_shard_file_is_noticed(folder: Path) -> None:
    harmless = HARMLESS_IN_A_SHARD
    for name, how in unnoticed_in_a_shard(folder):
        assert {name, (name, how)} & harmless.keys(), (name, how)
        assert how.startswith("[") or name.startswith("@") or (name, how) in harmless, (name, how)


@pytest.mark.parametrize("key", ["mean/0", "mean/6", "bos/6"])
@pytest.mark.parametrize("row", [0, 1, -1])  # row 2 is of a rejected sequence
@pytest.mark.parametrize("column", [0, 4, -1])
def test_one_value_that_is_not_finite_is_noticed(
    folder: Path, key: str, row: int, column: int
) -> None:
    with h5py.File(folder / "1-of-1.h5", "r+") as file:
        table = file["sequences"]
        values = table[key][row]
        values[column] = np.nan
        table[key][row] = values
    settings = read_json(folder / "fingerprint.json")
    with pytest.raises(UserError, match=f"values of {key} that are not those"):
        check_shard(folder / "1-of-1.h5", Shard.index(folder / "1-of-1.fasta"), settings)


@pytest.mark.parametrize("name", ["1-of-1.h5", "embeddings.h5", "part"])
def test_a_truncated_file_is_noticed(folder: Path, name: str) -> None:
    """Cut at every 4 KiB, and a byte before the end."""
    path = next(folder.glob("part-*.pt")) if name == "part" else folder / name
    content = path.read_bytes()
    shard, settings = Shard.index(folder / "1-of-1.fasta"), read_json(folder / "fingerprint.json")
    verify(folder, "embeddings.h5")
    check_shard(folder / "1-of-1.h5", shard, settings)
    for size in [*range(0, len(content), 4096), len(content) - 1]:
        path.unlink()
        path.write_bytes(content[:size])
        if name == "part":
            with open_checkpoints(folder, settings, Thresholds(1, 1, 1)) as checkpoints:
                list(checkpoints.read_parts())
            assert (folder / "set-aside" / path.name).exists()
            path.touch()
            continue
        with pytest.raises(UserError, match=name):
            if name == "embeddings.h5":
                verify(folder, name)
            else:
                check_shard(path, shard, settings)


@pytest.mark.parametrize("name", ["1-of-1.h5", "embeddings.h5"])
def test_damage_to_the_structure_of_a_file_is_noticed(folder: Path, name: str) -> None:
    """Each of HDF5's trees, tables of symbols and heaps has lost its signature in turn."""
    content = (folder / name).read_bytes()
    shard, settings = Shard.index(folder / "1-of-1.fasta"), read_json(folder / "fingerprint.json")
    places = [found.start() for found in re.finditer(b"TREE|SNOD|HEAP|GCOL", content)]
    assert len(places) > 10
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        (folder / name).unlink()
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            if name == "embeddings.h5":
                verify(folder, name)
            else:
                check_shard(folder / name, shard, settings)


@pytest.mark.parametrize("dataset", ["digests", "mean/6", "index/id_rows"])
def test_a_dataset_that_is_something_else_is_noticed(folder: Path, dataset: str) -> None:
    with h5py.File(folder / "embeddings.h5", "r+") as file:
        if dataset in file:
            del file[dataset]
        file[dataset] = np.dtype("f4")  # a type by itself
    with pytest.raises(UserError, match=r"embeddings.h5"):
        verify(folder, "embeddings.h5")


HARMLESS_IN_A_MERGED_FILE = {
    "@weights": "where the weights came from; their sha256 is compared",
    **dict.fromkeys(("@config", "@created", "@input"), "how the work went"),
    **dict.fromkeys(("@spotesm_version", "@torch_version", "@python_version"), "who wrote it"),
}


def verify(folder: Path, name: str) -> None:
    with opened(folder / name) as embeddings:
        check(embeddings, [folder / "in.fasta"], folder / "rejected.tsv", 0, None, None)


def test_a_changed_merged_file_is_noticed(folder: Path) -> None:
    verify(folder, "embeddings.h5")
    harmless = HARMLESS_IN_A_MERGED_FILE
    for name, how in changes_of(folder / "embeddings.h5"):
        try:
            verify(folder, "changed.h5")
        except UserError as error:
            assert "changed.h5" in str(error)
        else:
            assert {name, (name, how)} & harmless.keys(), (name, how)
            assert how.startswith("[") or name.startswith("@"), (name, how)
