"""A shard's file in which something was not written never passes for a whole one."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from shards import WORK, make_request, make_shard
from spotesm.base.failures import IncompleteError
from spotesm.request.outputs import Outputs
from spotesm.request.results import Ragged, Results, rejected
from spotesm.sequences.reasons import Reason
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.shards import shard_file
from spotesm.shards.check import check_shard
from spotesm.shards.shard_file import ShardWriter

N, DIM, BATCH = 40, 4, 7
SETTINGS = make_request(outputs=("mean", "residues"), layers=(6,), precision="float32").fingerprint(
    "0"
)
OUTPUTS = Outputs(("mean", "residues"), (6,))
PLACES = (0, N // 2, N - 1)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path, N, seed=5)


def results_of(shard: Shard, which: np.ndarray) -> Results:
    lengths = shard.lengths[which].astype(np.int64)
    return Results(
        shard.digests[which],
        [None] * len(which),
        np.ones(len(which), np.int32),
        {"mean/6": np.ones((len(which), DIM), np.float32)},
        {"residues/6": Ragged(np.ones((lengths.sum(), DIM), np.float32), lengths)},
    )


def write(path: Path, shard: Shard) -> None:
    with h5py.File(path, "w") as file:
        writer = ShardWriter(file, shard, OUTPUTS, DIM)
        for which in np.array_split(np.arange(N), N // BATCH):
            writer.add(results_of(shard, which))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})


def test_what_is_whole_passes(tmp_path: Path, shard: Shard) -> None:
    write(tmp_path / "s.h5", shard)
    check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", PLACES)
def test_a_row_that_is_not_written_is_noticed(
    tmp_path: Path, shard: Shard, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows: Callable = ShardWriter._write_rows

    def skip(
        writer: ShardWriter,
        dataset: h5py.Dataset,
        rows: np.ndarray,
        values: np.ndarray,
        sources: np.ndarray,
    ) -> None:
        write_rows(writer, dataset, rows[rows != place], values, sources[rows != place])

    monkeypatch.setattr(ShardWriter, "_write_rows", skip)
    write(tmp_path / "s.h5", shard)
    with pytest.raises(IncompleteError, match="holds values of mean/6 that are not those"):
        check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["windows", "residues/sizes", "residues/starts"])
def test_a_number_that_is_not_written_is_noticed(
    tmp_path: Path, shard: Shard, place: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add: Callable = ShardWriter.add

    def skip(writer: ShardWriter, results: Results) -> None:
        numbers = {
            "windows": writer._windows,
            "residues/sizes": writer._sizes["residues"],
            "residues/starts": writer._starts["residues"],
        }[name]
        before = numbers[place]
        add(writer, results)
        numbers[place] = before

    monkeypatch.setattr(ShardWriter, "add", skip)
    write(tmp_path / "s.h5", shard)
    with pytest.raises(IncompleteError, match=r"has records without results|does not hold"):
        check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_ragged_value_that_is_not_written_is_not_finite(
    tmp_path: Path, shard: Shard, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    create: Callable = shard_file.create_in_chunks
    write(tmp_path / "whole.h5", shard)
    with h5py.File(tmp_path / "bare.h5", "w") as file, h5py.File(tmp_path / "whole.h5") as whole:
        values = whole["residues/6"]
        bare = create(file, "residues/6", 0, values, growing=True)
        bare.resize(len(values), axis=0)
        written = np.delete(np.arange(len(values)), place)
        bare[written] = values[written]
        assert np.flatnonzero(np.isnan(bare[:]).any(1)).tolist() == [place % len(values)]


def test_rows_of_rejected_records_need_not_be_there(tmp_path: Path, shard: Shard) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        writer = ShardWriter(file, shard, OUTPUTS, DIM)
        writer.add(rejected(shard.digests[:3], Reason("too_long", "long")))
        writer.add(results_of(shard, np.arange(3, N)))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
    check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", PLACES)
def test_a_sequence_without_a_result_ends_the_job(tmp_path: Path, shard: Shard, place: int) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        writer = ShardWriter(file, shard, OUTPUTS, DIM)
        writer.add(results_of(shard, np.delete(np.arange(N), place)))
        with pytest.raises(IncompleteError, match=r": 1 sequences have no result; run the same"):
            writer.finish(SETTINGS, {})


@pytest.mark.parametrize("place", PLACES)
def test_a_sequence_may_be_rejected_when_some_outputs_are_there(
    tmp_path: Path, shard: Shard, place: int
) -> None:
    """As if one layer was taken from an earlier run, and another is not finite."""
    own = results_of(shard, np.arange(N))
    reasons = [Reason("not_finite", "NaN") if i == place else None for i in range(N)]
    with h5py.File(tmp_path / "s.h5", "w") as file:
        writer = ShardWriter(file, shard, OUTPUTS, DIM)
        writer.add(own.only(["mean/6"]))
        assert not writer.done.any()
        writer.add(replace(own.only(["residues/6"]), reasons=reasons))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
        assert file.attrs["n_embedded"] == N - 1
    check_shard(tmp_path / "s.h5", shard, SETTINGS)


# -- read back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2_000, 20_000, 1 << 20])
def test_results_are_read_back_block_by_block(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sequence once, with its own values, however many of them a block holds."""
    rng = random.Random(6)
    sequences = [random_sequence(rng, 5 + i) for i in range(N)]
    order = [0, 3, *range(N), 0, N - 1]  # the first and the last are there several times
    records = [(f"p{i}", sequences[s]) for i, s in enumerate(order)]
    split_fasta(
        [write_fasta(tmp_path / "in", records)],
        [tmp_path / "s.fasta"],
        tmp_path / "r.tsv",
        tmp_path / "s.json",
    )
    shard = Shard.index(tmp_path / "s.fasta")
    reasons = {
        0: Reason("too_long", "a: b"),
        7: Reason("not_finite", ""),
        N - 1: Reason("out_of_memory", "y"),
    }
    with h5py.File(tmp_path / "s.h5", "w") as file:
        writer = ShardWriter(file, shard, OUTPUTS, DIM)
        for which in np.array_split(np.random.default_rng(0).permutation(N), 5):
            writer.add(numbered_results(shard, which, reasons))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
    monkeypatch.setattr(shard_file, "BYTES_AT_ONCE", size)
    blocks = list(shard_file.read_shard_results(tmp_path / "s.h5"))
    assert (len(blocks) == 1) == (size == 1 << 20)
    seen = []
    for block in blocks:
        which = shard.find(block.digests)
        seen += which.tolist()
        expected = numbered_results(shard, which, reasons)
        assert block.reasons == expected.reasons
        np.testing.assert_array_equal(block.windows, expected.windows)
        accepted = [reason is None for reason in block.reasons]
        np.testing.assert_array_equal(
            block.rows["mean/6"][accepted], expected.rows["mean/6"][accepted]
        )
        for field in ("values", "sizes"):
            np.testing.assert_array_equal(
                getattr(block.ragged["residues/6"], field),
                getattr(expected.ragged["residues/6"], field),
            )
    assert sorted(seen) == list(range(N))


def numbered_results(shard: Shard, which: np.ndarray, reasons: dict[int, Reason]) -> Results:
    """Values that say whose they are; none of those that are rejected."""
    accepted = np.array([i not in reasons for i in which])
    lengths = np.where(accepted, shard.lengths[which], 0).astype(np.int64)
    own = np.repeat(which, lengths)
    return Results(
        shard.digests[which],
        [reasons.get(int(i)) for i in which],
        np.where(accepted, which + 1, 0).astype(np.int32),
        {"mean/6": np.tile(which[:, None], DIM).astype(np.float32)},
        {"residues/6": Ragged(np.tile(own[:, None], DIM).astype(np.float32), lengths)},
    )


@pytest.mark.parametrize("n", [0, 1, 3])
def test_results_of_other_shards_are_passed_over(tmp_path: Path, shard: Shard, n: int) -> None:
    """Also where a FASTA that became shorter left nothing of a shard."""
    (tmp_path / "few.fasta").write_text("".join(f">{i} p\n{'W' * (i + 1)}\n" for i in range(n)))
    few = Shard.index(tmp_path / "few.fasta")
    with h5py.File(tmp_path / "few.h5", "w") as file:
        writer = ShardWriter(file, few, OUTPUTS, DIM)
        writer.add(results_of(shard, np.arange(N)))
        if n:
            writer.add(results_of(few, np.arange(n)))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
        assert file["mean/6"].shape == (n, DIM)
    check_shard(tmp_path / "few.h5", few, SETTINGS)
