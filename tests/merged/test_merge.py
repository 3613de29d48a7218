import contextlib
import csv
import dataclasses
import json
import random
import zlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from shards import WORK, make_merge, make_request
from spotesm.base.durable import write_json
from spotesm.base.failures import IncompleteError, TooManyRejectedError
from spotesm.merged.index import Index
from spotesm.merged.merge import MergeJob, merge_shards
from spotesm.sequences.digests import hash_text
from spotesm.shards.shard_file import ShardFile
from spotesm.shards.shard_writer import as_attribute

DIM = 4
N_RECORDS = 50
N_SHARDS = 3
REJECTED_BY_SPLIT = (3, 49)
REJECTED_BY_EMBED = 17


def write_shard(path: Path, ordinals: list[int], overlap: int = 8) -> None:
    """Each record has a sequence of its own."""
    ordinals = np.array(ordinals, dtype=np.int64)
    reasons = ["not_finite" if o == REJECTED_BY_EMBED else "" for o in ordinals]
    request = make_request(layers=(6,), precision="float32")
    long = dataclasses.replace(request.long_sequences, overlap=overlap)
    settings = dataclasses.replace(request, long_sequences=long).fingerprint("x")
    with h5py.File(path, "w") as file:
        file["records/ordinals"] = ordinals
        file["records/sequences"] = np.arange(len(ordinals))
        text = h5py.string_dtype("utf-8")
        file.create_dataset("records/sequence_ids", data=[f"id{o}" for o in ordinals], dtype=text)
        keys = [int.from_bytes(hash_text(f"id{o}")) for o in ordinals]
        file["records/id_keys"] = np.array(keys, np.uint64)
        table = file.create_group("sequences")
        table["lengths"] = (ordinals + 1).astype(np.int32)
        table["digests"] = np.repeat(ordinals[:, None], 16, axis=1).astype(np.uint8)
        table["windows"] = np.ones(len(ordinals), np.int32)
        values = ordinals[:, None] + np.arange(DIM) / 8
        table["mean/6"] = values.astype(np.float32)
        table.create_dataset("reasons", data=reasons, dtype=text)
        table.create_dataset("details", data=[r and "NaN" for r in reasons], dtype=text)
        sums = [zlib.crc32(row.tobytes()) for row in table["mean/6"][:]]
        table["checksums/mean/6"] = np.where(np.array(reasons) == "", sums, 0).astype(np.uint32)
        file.attrs.update({name: as_attribute(value) for name, value in settings.items()})
        file.attrs.update(
            dict.fromkeys(WORK, 1), fingerprint=json.dumps(settings), rejected_on="[]"
        )
        file.attrs.update(weights="x", embedding_dim=DIM, n_sequences=len(ordinals))
        file.attrs["n_embedded"] = reasons.count("")


@pytest.fixture
def job(tmp_path: Path) -> MergeJob:
    """Fifty records dealt at random to three shards."""
    rng = random.Random(3)
    dealt: list[list[int]] = [[] for _ in range(N_SHARDS)]
    for ordinal in range(N_RECORDS):
        if ordinal not in REJECTED_BY_SPLIT:
            rng.choice(dealt).append(ordinal)
    shards = [tmp_path / f"{i}.h5" for i in range(N_SHARDS)]
    for path, ordinals in zip(shards, dealt, strict=True):
        write_shard(path, ordinals)
    write_json(tmp_path / "split.json", {"n_records": N_RECORDS})
    with open(tmp_path / "split.tsv", "w") as file:
        file.write("ordinal\tid\tstage\treason\tdetail\n")
        file.writelines(f"{o}\tid{o}\tsplit\tempty\tno residues\n" for o in REJECTED_BY_SPLIT)
    return make_merge(
        shards,
        tmp_path,
        tmp_path,
        split_rejected=tmp_path / "split.tsv",
        rejected=tmp_path / "rejected.tsv",
        max_rejected=0.06,
        config={"shards": 3},
    )


def test_a_shard_with_many_records_in_a_row(job: MergeJob) -> None:
    """More than are expected of one shard, at the beginning, in the middle and at the end."""
    kept = [o for o in range(N_RECORDS) if o not in REJECTED_BY_SPLIT]
    thirds = [kept[10:20], [*kept[:10], *kept[20:25], *kept[30:]], kept[25:30]]
    for path, ordinals in zip(job.shards, thirds, strict=True):
        write_shard(path, ordinals)
    merge_shards(job)
    with h5py.File(job.output) as file:
        expected = [f"id{o}" for o in kept if o != REJECTED_BY_EMBED]
        assert file["sequence_ids"].asstr()[:].tolist() == expected


def test_ids_are_found(job: MergeJob) -> None:
    merge_shards(job)
    kept = [o for o in range(N_RECORDS) if o not in (*REJECTED_BY_SPLIT, REJECTED_BY_EMBED)]
    with h5py.File(job.output) as file:
        index = Index.of(file)
        assert index.rows_of_ids([f"id{o}" for o in kept]).tolist() == [*range(len(kept))]
        assert "id_keys" not in file


def test_rows_come_in_input_order(job: MergeJob) -> None:
    summary = merge_shards(job)
    kept = [o for o in range(N_RECORDS) if o not in (*REJECTED_BY_SPLIT, REJECTED_BY_EMBED)]
    with h5py.File(job.output) as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [f"id{o}" for o in kept]
        expected = np.array(kept)[:, None] + np.arange(DIM) / 8
        np.testing.assert_array_equal(file["mean/6"][:], expected)
        np.testing.assert_array_equal(file["embeddings"][:], expected)
        np.testing.assert_array_equal(file["lengths"][:], np.array(kept) + 1)
        np.testing.assert_array_equal(file["digests"][:, 5], kept)
        assert (file.attrs["n_records"], file.attrs["n_rejected"]) == (50, 3)
        assert json.loads(file.attrs["config"]) == {"shards": 3}
    assert (summary["n_embedded"], summary["rejected"]) == (47, {"empty": 2, "not_finite": 1})


def test_hdf5_keeps_those_files_open_that_hold_more_than_rows(job: MergeJob) -> None:
    """It takes half a MiB for each, and there may be thousands."""
    for path in job.shards:
        with h5py.File(path, "r+") as file:
            for name in ("records/sequence_ids", "sequences/reasons", "sequences/details"):
                texts = file[name].asstr()[:].tolist()
                if path != job.shards[1] or not name.endswith("details"):
                    del file[name]
                    file[name] = np.array(texts, "S20")
    with contextlib.ExitStack() as stack:
        shards = [stack.enter_context(ShardFile(path)) for path in job.shards]
        assert [bool(shard.file) for shard in shards] == [False, True, False]
        assert shards[0].records.read("sequence_ids", 1, 3).tolist() == [b"id4", b"id10"]


@pytest.mark.parametrize("widths", [(9, 20, 12), (20, 9, 12), (9, None, 20), (20, 9, None)])
def test_no_id_becomes_shorter(job: MergeJob, widths: tuple[int | None, ...]) -> None:
    """Each shard has ids as wide as its own, or of any width."""
    expected = {}
    for path, width in zip(job.shards, widths, strict=True):
        with h5py.File(path, "r+") as file:
            ids = [f"é{o}".ljust((width or 70) - 1, "x") for o in file["records/ordinals"][:]]
            del file["records/sequence_ids"]
            text = h5py.string_dtype("utf-8", width)
            file.create_dataset("records/sequence_ids", data=[i.encode() for i in ids], dtype=text)
            expected.update(zip(file["records/ordinals"][:].tolist(), ids, strict=True))
    merge_shards(job)
    del expected[REJECTED_BY_EMBED]
    with h5py.File(job.output) as file:
        merged = file["sequence_ids"].asstr()[:].tolist()
    assert merged == [expected[ordinal] for ordinal in sorted(expected)]


def test_whence_records_come_is_told_by_one_list(job: MergeJob) -> None:
    """Each shard has its own, in its own order, or none; of the last nothing is left."""
    expected = {}
    for path, names in zip(job.shards, (["a", "é"], [], ["é", "b", "a", "none"]), strict=True):
        with h5py.File(path, "r+") as file:
            ordinals = file["records/ordinals"][:]
            numbers = np.where(ordinals == REJECTED_BY_EMBED, 0, ordinals % min(4, 1 + len(names)))
            if names:
                file["sequences/reused"] = numbers.astype(np.uint16)
                file.attrs["reused_from"] = names
            own = [["", *names][number] for number in numbers]
            expected.update(zip(ordinals.tolist(), own, strict=True))
    summary = merge_shards(job)
    del expected[REJECTED_BY_EMBED]
    with h5py.File(job.output) as file:
        names = ["", *file.attrs["reused_from"]]
        assert [names[i] for i in file["reused"][:]] == [expected[o] for o in sorted(expected)]
    counts = Counter(expected.values())
    assert summary["reused_from"] == {name: counts[name] for name in ("a", "b", "é", "none")}


@pytest.mark.parametrize("weights", ["untrained", "fair-esm"])
def test_untrained_weights_are_admitted(job: MergeJob, weights: str) -> None:
    for path in job.shards:
        with h5py.File(path, "r+") as file:
            file.attrs["weights"] = weights
    summary = merge_shards(job)
    with h5py.File(job.output) as file:
        assert file.attrs["biologically_meaningful"] == (weights != "untrained")
    assert summary["untrained"] == (weights == "untrained")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["model", "fingerprint", "embedding_dim", "n_embedded"])
def test_a_shard_without_an_attribute_is_named(job: MergeJob, place: int, name: str) -> None:
    with h5py.File(job.shards[place], "r+") as file:
        del file.attrs[name]
    with pytest.raises(IncompleteError, match=rf"{place}\.h5: not a whole shard file; delete it"):
        merge_shards(job)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shard_that_names_no_earlier_file_is_named(job: MergeJob, place: int) -> None:
    with h5py.File(job.shards[place], "r+") as file:
        file["sequences/reused"] = np.zeros(len(file["records/ordinals"]), np.uint16)
    with pytest.raises(IncompleteError, match=rf"{place}\.h5: not a whole shard file; delete it"):
        merge_shards(job)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shard_with_a_column_too_short_is_named(job: MergeJob, place: int) -> None:
    with h5py.File(job.shards[place], "r+") as file:
        lengths = file["sequences/lengths"][:-1]
        del file["sequences/lengths"]
        file["sequences/lengths"] = lengths
    with pytest.raises(IncompleteError, match=rf"{place}\.h5: not a whole shard file; delete it"):
        merge_shards(job)


def test_all_rejected_records_are_listed_in_order(job: MergeJob) -> None:
    merge_shards(job)
    with open(job.rejected, newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))[1:]
    assert lines == [
        ["3", "id3", "split", "empty", "no residues"],
        ["17", "id17", "embed", "not_finite", "NaN"],
        ["49", "id49", "split", "empty", "no residues"],
    ]


def lose_a_record(job: MergeJob) -> str:
    with h5py.File(job.shards[1]) as file:
        ordinals = file["records/ordinals"][:].tolist()
    write_shard(job.shards[1], ordinals[:2] + ordinals[3:])
    return f"record {ordinals[2]} of the input is missing"


def double_a_record(job: MergeJob) -> str:
    with h5py.File(job.shards[0]) as a, h5py.File(job.shards[1]) as b:
        mine, doubled = a["records/ordinals"][:].tolist(), int(b["records/ordinals"][4])
    write_shard(job.shards[0], sorted([*mine, doubled]))
    return f"record {doubled} of the input appears more than once"


def lose_the_last_record(job: MergeJob) -> str:
    write_json(job.split, {"n_records": N_RECORDS + 1})
    return "record 50 of the input is missing"


def add_a_record_beyond(job: MergeJob) -> str:
    with h5py.File(job.shards[2]) as file:
        ordinals = file["records/ordinals"][:].tolist()
    write_shard(job.shards[2], [*ordinals, 60])
    return "there are records beyond the 50"


def embed_a_rejected_record(job: MergeJob) -> str:
    with h5py.File(job.shards[2]) as file:
        ordinals = file["records/ordinals"][:].tolist()
    write_shard(job.shards[2], sorted([*ordinals, 3]))
    return "record 3 of the input appears more than once"


def make_a_value_infinite(job: MergeJob) -> str:
    with h5py.File(job.shards[0], "a") as file:
        place = (
            file["records/ordinals"][:].tolist().index(max(set(file["records/ordinals"][:]) - {17}))
        )
        file["sequences/mean/6"][place, 2] = np.inf
    return "is not finite"


def change_settings(job: MergeJob) -> str:
    with h5py.File(job.shards[2]) as file:
        ordinals = file["records/ordinals"][:].tolist()
    write_shard(job.shards[2], ordinals, overlap=100)
    return "different settings"


@pytest.mark.parametrize(
    "break_it",
    [
        lose_a_record,
        double_a_record,
        lose_the_last_record,
        add_a_record_beyond,
        embed_a_rejected_record,
        make_a_value_infinite,
        change_settings,
    ],
)
def test_what_does_not_add_up_is_refused(job: MergeJob, break_it: object) -> None:
    message = break_it(job)
    with pytest.raises(IncompleteError, match=message):
        merge_shards(job)
    assert not job.output.exists()
    assert not job.summary.exists()
    assert not list(job.output.parent.glob(".*.tmp"))


def test_too_many_rejected_records_fail_the_merge(job: MergeJob) -> None:
    message = r"3 of 50 records were rejected \(2 empty, 1 not_finite\).*max_rejected: 0.05"
    with pytest.raises(TooManyRejectedError, match=message):
        merge_shards(dataclasses.replace(job, max_rejected=0.05))
    assert not job.output.exists()
    assert all(shard.exists() for shard in job.shards)
