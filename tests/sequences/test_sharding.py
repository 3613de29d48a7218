import csv
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from spotesm.base.failures import InputError
from spotesm.sequences.sharding import Shard, split_fasta

N_SHARDS = 5


def split(inputs: list[Path], folder: Path) -> tuple[list[list[tuple[int, str, str]]], dict, list]:
    """Run split_fasta; return the shards' (ordinal, id, sequence), the counts, the rejected."""
    shards = [folder / f"{i}.fasta" for i in range(N_SHARDS)]
    split_fasta(inputs, shards, folder / "rejected.tsv", folder / "split.json")
    records = []
    for path in shards:
        lines = path.read_text().splitlines()
        pairs = zip(lines[::2], lines[1::2], strict=True)
        records.append([(int(h[1:].split(" ")[0]), h.split(" ", 1)[1], s) for h, s in pairs])
    with open(folder / "rejected.tsv", newline="") as file:
        rejected = list(csv.DictReader(file, delimiter="\t"))
    return records, json.loads((folder / "split.json").read_text()), rejected


@pytest.fixture
def records() -> list[tuple[str, str]]:
    rng = random.Random(1)
    sequences = [random_sequence(rng, rng.randint(1, 60)) for _ in range(200)]
    return [(f"p{i}", rng.choice(sequences)) for i in range(400)]


def test_every_record_goes_to_the_shard_its_digest_names(
    tmp_path: Path, records: list[tuple[str, str]]
) -> None:
    shards, counts, rejected = split([write_fasta(tmp_path / "in.fasta", records)], tmp_path)
    expected: list[list[tuple[int, str, str]]] = [[] for _ in range(N_SHARDS)]
    for ordinal, (name, sequence) in enumerate(records):
        digest = hashlib.blake2b(sequence.encode(), digest_size=16).hexdigest()
        expected[int(digest, 16) % N_SHARDS].append((ordinal, name, sequence))
    assert shards == expected
    assert rejected == []
    assert counts == {
        "n_records": 400,
        "n_rejected": 0,
        "n_residues": sum(len(s) for _, s in records),
        "n_replaced_residues": 0,
        "n_repeated_ids": 0,
    }


def test_several_files_count_on_and_added_records_move_none(
    tmp_path: Path, records: list[tuple[str, str]]
) -> None:
    first = write_fasta(tmp_path / "a.fasta", records[:100])
    second = write_fasta(tmp_path / "b.fasta", records[100:])
    before, *_ = split([first], tmp_path)
    after, *_ = split([first, second], tmp_path)
    for few, many in zip(before, after, strict=True):
        assert many[: len(few)] == few
    assert sorted(r for shard in after for r in shard) == [
        (i, name, sequence) for i, (name, sequence) in enumerate(records)
    ]


def test_rejected_records_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "in", [("a", "MJJ"), ("b", "M*K"), ("a", ""), ("a", "mk*")])
    shards, counts, rejected = split([path], tmp_path)
    assert sorted(r for shard in shards for r in shard) == [(0, "a", "MXX"), (3, "a", "MK")]
    assert [tuple(line.values()) for line in rejected] == [
        ("1", "b", "split", "invalid_character", "'*' at residue 2"),
        ("2", "a", "split", "empty", "no residues"),
    ]
    assert counts["n_records"] == 4
    assert counts["n_rejected"] == 2
    assert counts["n_residues"] == 5
    assert counts["n_replaced_residues"] == 2
    assert counts["n_repeated_ids"] == 2


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    good = write_fasta(tmp_path / "good", [("a", "MK")])
    bad = tmp_path / "bad"
    bad.write_bytes(b">a\nMK\0\n")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="line 2"):
        split([good, bad], out)
    assert list(out.iterdir()) == []


def test_the_index_of_a_shard(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    shards, *_ = split([write_fasta(tmp_path / "in", records)], tmp_path)
    for number, expected in enumerate(shards):
        shard = Shard.index(tmp_path / f"{number}.fasta")
        assert shard.ordinals.tolist() == [ordinal for ordinal, _, _ in expected]
        assert list(shard.read_ids()) == [name for _, name, _ in expected]
        assert len(shard.digests) == len({sequence for _, _, sequence in expected})
        sequences = shard.read_sequences(shard.sequence_of_record)
        assert [s.decode() for s in sequences] == [sequence for _, _, sequence in expected]
        assert shard.lengths[shard.sequence_of_record].tolist() == [len(s) for s in sequences]


def test_finding_digests(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    split([write_fasta(tmp_path / "in", records)], tmp_path)
    shard = Shard.index(tmp_path / "0.fasta")
    foreign = np.frombuffer(b"\0" * 16 + b"\xff" * 16, dtype="V16")
    found = shard.find(np.concatenate([shard.digests[::-1], foreign]))
    assert found.tolist() == [*range(len(shard.digests) - 1, -1, -1), -1, -1]


def test_an_empty_shard(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    shard = Shard.index(tmp_path / "empty")
    assert len(shard.ordinals) == len(shard.digests) == 0
    assert shard.find(np.frombuffer(b"x" * 16, dtype="V16")).tolist() == [-1]
