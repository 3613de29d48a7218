import csv
import hashlib
import json
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequences import random_sequence, write_fasta
from spotesm.base.durable import write_json
from spotesm.base.failures import InputError, TooManyRejectedError
from spotesm.sequences.digests import from_bytes
from spotesm.sequences.ids import Ids
from spotesm.sequences.looks import is_like_nucleotides
from spotesm.sequences.rejected import Rejected, read_rejected, writing_rejected
from spotesm.sequences.sharding import (
    Contigs,
    Shard,
    _ShardFiles,
    divide_digests,
    shards_of,
    split_fasta,
)

N_SHARDS = 5
RESTS = (bytes(8), b"\xff" * 8)  # of a digest, behind its key


@pytest.fixture(autouse=True, scope="module", params=[1, 1 << 20], ids=["by-one", "at-once"])
def block_bytes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Records are read one by one, or all at once; the same must come of it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("spotesm.sequences.fasta.BLOCK_BYTES", request.param)
        yield


def split(
    inputs: list[Path], folder: Path, **settings: object
) -> tuple[list[list[tuple[int, str, str]]], dict, list]:
    """Run split_fasta; return the shards' (ordinal, id, sequence), the counts, the rejected."""
    shards = [folder / f"{i}.fasta" for i in range(N_SHARDS)]
    split_fasta(inputs, shards, folder / "rejected.tsv", folder / "split.json", **settings)
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
        expected[int(int(digest, 16) / 2**128 * N_SHARDS)].append((ordinal, name, sequence))
    assert shards == expected
    assert rejected == []
    assert counts == {
        "n_records": 400,
        "n_rejected": 0,
        "n_residues": sum(len(s) for _, s in records),
        "n_replaced_residues": 0,
        "n_removed_characters": 0,
        "n_unknown_proteins": 0,
        "n_like_nucleotides": 0,
        "n_repeated_ids": 0,
        "input": {},
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


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(
    ("odd", "is_rejected"), [("", True), ("*", True), ("M*K", True), ("MJK", False), ("mk", False)]
)
def test_one_odd_record_among_others(
    tmp_path: Path, place: int, odd: str, is_rejected: bool
) -> None:
    for stop in ("", "*", "."):
        sequences = [f"MKV{'ACDEFGH'[i]}{stop}" for i in range(7)]
        sequences[place] = odd
        path = write_fasta(tmp_path / "in", [(f"p{i}", text) for i, text in enumerate(sequences)])
        shards, counts, rejected = split([path], tmp_path)
        expected = [(i, f"p{i}", f"MKV{'ACDEFGH'[i]}") for i in range(7)]
        expected[place] = (place, f"p{place}", odd.upper().replace("J", "X"))
        if is_rejected:
            del expected[place]
        assert sorted(record for shard in shards for record in shard) == expected
        assert [int(line["ordinal"]) for line in rejected] == [place] * is_rejected
        assert (counts["n_records"], counts["n_rejected"]) == (7, is_rejected)


@pytest.mark.parametrize(("n", "width"), [(20_000, 5), (2000, 500)], ids=["many", "long-ids"])
def test_memory_is_that_of_what_waits_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, width: int
) -> None:
    """However little of the records is residues."""
    monkeypatch.setattr("spotesm.sequences.fasta.BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr("spotesm.sequences.sharding.BYTES_AT_ONCE", 1 << 16)
    monkeypatch.setattr("spotesm.sequences.ids.ID_HASHES_AT_ONCE", 1 << 11)
    path = write_fasta(tmp_path / "in", [(f"{i:0{width}}", "M") for i in range(n)])
    tracemalloc.start()
    try:
        split_fasta([path], [tmp_path / "1"], tmp_path / "rejected", tmp_path / "counts")
        assert tracemalloc.get_traced_memory()[1] < 600_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20))
def test_repeated_ids_are_counted_wherever_they_are(ids: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_fasta(Path(folder) / "in", [(name, "MKV") for name in ids])
        _, counts, _ = split([path], Path(folder))
    assert counts["n_repeated_ids"] == len(ids) - len(set(ids))


def test_what_is_deleted_or_unknown_is_counted_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [
        ("a", "MK-V--"),
        ("b", "XXX"),
        ("c", "M K.\n V*"),
        ("d", "MKV"),
        ("e", "jj"),
        ("f", "x"),
        ("g", "XMK"),
    ]
    shards, counts, _ = split([write_fasta(tmp_path / "in", records)], tmp_path)
    assert sorted(s for shard in shards for _, _, s in shard) == [
        "MKV",
        "MKV",
        "X",
        "XMK",
        "XX",
        "XXX",
    ]
    assert (counts["n_removed_characters"], counts["n_unknown_proteins"]) == (3, 3)
    assert "3 gaps and blanks inside sequences were removed" in caplog.text
    assert "3 proteins are of X alone" in caplog.text


@pytest.mark.parametrize("bad", [{0}, {17}, {39}, set(range(40))])
def test_too_many_rejected_records_end_the_split(tmp_path: Path, bad: set[int]) -> None:
    records = [(f"p{i}", "M*K" if i in bad else "MKV") for i in range(40)]
    path = write_fasta(tmp_path / "in", records)
    folder, kept = tmp_path / "shards", tmp_path / "rejected.tsv"
    folder.mkdir()
    first = "; ".join(f"{i} 'p{i}' (invalid_character: '*' at residue 2)" for i in sorted(bad)[:3])
    with pytest.raises(TooManyRejectedError) as caught:
        split([path], folder, max_rejected=0.02, kept=kept)
    assert f"{len(bad)} of 40 records were rejected" in str(caught.value)
    assert f"{kept} lists them; the first: {first}. Mend the input" in str(caught.value)
    assert [line.ordinal for line in read_rejected(kept)] == sorted(bad)
    assert list(folder.iterdir()) == []
    split([path], folder, max_rejected=len(bad) / 40, kept=kept)


DNA = "ATGGCGTACGATCGATCGATCGATCGATTAGCTAGCTAGCATCGATCGAT"
SILK = "GAGAGSGAGAGY" * 20
NOT_DNA = [
    [("short", "GAG"), ("shorter", "A"), ("n", "NNTCAGGATC")],
    [("low", "GAGAGAGAGAGAGAGAGAGAGAGA"), ("a", "MKTAYIAKQRQISFVKSHFS"), ("b", "MALWMRLLPLLALL")],
    [("silk", SILK)],
    [(f"p{i}", "MKTAYIAKQRQISFVKSHFS") for i in range(60)] + [("dna", DNA)],
]
LIKE_DNA = [
    [("dna", DNA)],
    [("rna", DNA.replace("T", "U").lower())],
    [("n", DNA + "N" * 40), ("b", DNA + "RYK")],
    [("a", "MKTAYIAKQRQISFVKSHFS"), ("dna", DNA), ("dna2", DNA[:20])],
    [(f"p{i}", "MKTAYIAKQRQISFVKSHFS") for i in range(60)] + [("genome", DNA * 60)],
    [("a", DNA), *((f"p{i}", "MKTAYIAKQRQISFVKSHFS") for i in range(4)), ("b", DNA)],
]


@pytest.mark.parametrize("records", NOT_DNA)
def test_some_letters_of_nucleotides_are_no_reason(
    tmp_path: Path, records: list[tuple[str, str]]
) -> None:
    path = write_fasta(tmp_path / "in", records)
    shards, *_ = split([path], tmp_path, surely_proteins=False)
    assert sum(map(len, shards)) == len(records)


@pytest.mark.parametrize("records", LIKE_DNA)
def test_nucleotides_among_proteins_end_the_split(
    tmp_path: Path, records: list[tuple[str, str]]
) -> None:
    path, folder = write_fasta(tmp_path / "in", records), tmp_path / "shards"
    folder.mkdir()
    with pytest.raises(InputError, match=r"in: \d+ of \d+ sequences .* is this nucleotide\?"):
        split([path], folder, surely_proteins=False)
    assert list(folder.iterdir()) == []
    _, counts, _ = split([path], folder, surely_proteins=True)
    assert counts["n_like_nucleotides"] == sum(
        is_like_nucleotides(s.upper().encode()) for _, s in records
    )


@pytest.mark.parametrize(
    ("sequence", "alike"),
    [
        (DNA[:20], True),
        (DNA[:19], False),
        ("ACGTUN" * 4 + "RY", True),
        ("ACGTUN" * 4 + "RYK", False),
        ("ACGTUN" * 4 + "E", False),
        ("E" + "ACGTUN" * 4, False),
    ],
)
def test_what_looks_like_nucleotides(sequence: str, alike: bool) -> None:
    assert is_like_nucleotides(sequence.encode()) == alike


def test_rejected_contigs_are_passed_on(tmp_path: Path) -> None:
    contig = Rejected(4, "c", "translate", "empty", "no bases")
    with writing_rejected(tmp_path / "contigs.tsv") as rejects:
        rejects.pass_on(contig)
    write_json(tmp_path / "contigs.json", {"n_contigs": 5, "n_rejected_contigs": 1})
    path = write_fasta(tmp_path / "in", [("a", "MK"), ("b", "")])
    contigs = Contigs(tmp_path / "contigs.json", tmp_path / "contigs.tsv")
    _, counts, _ = split([path], tmp_path, contigs=contigs, max_rejected=0.5)
    lines = list(read_rejected(tmp_path / "rejected.tsv"))
    assert lines == [contig, (1, "b", "split", "empty", "no residues")]
    assert (counts["n_rejected"], counts["n_contigs"], counts["n_rejected_contigs"]) == (1, 5, 1)


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


@given(st.integers(1, 4096), st.data())
def test_ranges_of_digests_are_as_equal_as_integers_can_say(
    shards: int, data: st.DataObject
) -> None:
    edges = divide_digests(shards)
    assert len(edges) == shards - 1
    near = [int(edge) + step for edge in edges[:: max(1, shards // 8)] for step in (-1, 0)]
    keys = [0, 2**64 - 1, data.draw(st.integers(0, 2**64 - 1)), *near]
    digests = from_bytes(b"".join(key.to_bytes(8) + rest for key in keys for rest in RESTS))
    expected = [key * shards // 2**64 for key in keys for _ in RESTS]
    assert shards_of(digests, edges).tolist() == expected


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_full_disk_is_told_of_the_shard_that_is_written(tmp_path: Path, place: int) -> None:
    paths = [tmp_path / f"{i}.fasta" for i in range(5)]
    with pytest.raises(OSError) as caught, ExitStack() as stack:
        files = _ShardFiles(stack, paths)
        files._files[place] = stack.enter_context(open("/dev/full", "wb", buffering=0))
        files.add(np.arange(5), range(5), [b"p"] * 5, [b"MKV"] * 5)
        files.write()
    assert caught.value.filename == str(paths[place])
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(0, 40), min_size=1, max_size=120), st.integers(1, 7))
def test_repeated_ids_are_counted_whatever_is_written_at_once(ids: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryFile() as file:
        monkeypatch.setattr("spotesm.sequences.ids.ID_HASHES_AT_ONCE", most)
        counted = Ids(file)
        for start in range(0, len(ids), 5):
            counted.add(b"%d" % one for one in ids[start : start + 5])
        assert len(counted) == len(ids)
        assert counted.count_repeats() == len(ids) - len(set(ids))
