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
from spotesm.hdf5 import table
from spotesm.hdf5.writing import Allocated, WrittenFile
from spotesm.request.results import Ragged, Results, rejected
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.reasons import Reason
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.shards.check import check_shard
from spotesm.shards.shard_file import ShardFile
from spotesm.shards.shard_writer import ShardWriter

N, DIM, BATCH = 40, 4, 7
REQUEST = make_request(outputs=("mean", "residues"), layers=(6,), precision="float32")
SETTINGS = REQUEST.fingerprint("0")
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
        {"residues/6": Ragged.of_sizes(np.ones((lengths.sum(), DIM), np.float32), lengths)},
    )


def write(path: Path, shard: Shard) -> None:
    with WrittenFile(path) as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
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
    write_rows: Callable = Allocated.write_rows

    def skip(allocated: Allocated, rows: np.ndarray, values: np.ndarray) -> None:
        write_rows(allocated, rows[rows != place], values[rows != place])

    monkeypatch.setattr(Allocated, "write_rows", skip)
    write(tmp_path / "s.h5", shard)
    with pytest.raises(IncompleteError, match="holds values of mean/6 that are not those"):
        check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["windows", "residues/offsets"])
def test_a_number_that_is_not_right_is_noticed(
    tmp_path: Path, shard: Shard, place: int, name: str
) -> None:
    write(tmp_path / "s.h5", shard)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file[f"sequences/{name}"][place] -= 1
    with pytest.raises(IncompleteError, match=r"has sequences without results|of every|no place"):
        check_shard(tmp_path / "s.h5", shard, SETTINGS)


def test_rows_of_rejected_sequences_need_not_be_there(tmp_path: Path, shard: Shard) -> None:
    with WrittenFile(tmp_path / "s.h5") as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
        writer.add(rejected(shard.digests[:3], Reason("too_long", "long")))
        writer.add(results_of(shard, np.arange(3, N)))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
    check_shard(tmp_path / "s.h5", shard, SETTINGS)


@pytest.mark.parametrize("place", PLACES)
def test_a_sequence_without_a_result_ends_the_job(tmp_path: Path, shard: Shard, place: int) -> None:
    with WrittenFile(tmp_path / "s.h5") as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
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
    with WrittenFile(tmp_path / "s.h5") as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
        writer.add(own.only(["mean/6"]))
        assert not writer.done.any()
        writer.add(replace(own.only(["residues/6"]), reasons=reasons))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
        assert file.attrs["n_embedded"] == N - 1
    check_shard(tmp_path / "s.h5", shard, SETTINGS)


# -- read back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2_000, 10_000, 1 << 20])
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
    with WrittenFile(tmp_path / "s.h5") as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
        for which in np.array_split(np.random.default_rng(0).permutation(N), 5):
            writer.add(numbered_results(shard, which, reasons))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
    monkeypatch.setattr(table, "BYTES_AT_ONCE", size)
    with ShardFile(tmp_path / "s.h5") as file:
        blocks = list(file.read(np.arange(N), file.outputs.keys))
    assert (len(blocks) == 2) == (size == 1 << 20)  # the rejected ones, and the others
    seen = []
    for block in blocks:
        which = shard.find(block.digests)
        seen += which.tolist()
        expected = numbered_results(shard, which, reasons)
        assert block.reasons == expected.reasons
        np.testing.assert_array_equal(block.windows, expected.windows)
        if any(block.reasons):
            assert not (block.rows or block.ragged)
            continue
        np.testing.assert_array_equal(block.rows["mean/6"], expected.rows["mean/6"])
        for field in ("values", "offsets"):
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
        {"residues/6": Ragged.of_sizes(np.tile(own[:, None], DIM).astype(np.float32), lengths)},
    )


@pytest.mark.parametrize("n", [0, 1, 3])
def test_results_of_other_shards_are_passed_over(tmp_path: Path, shard: Shard, n: int) -> None:
    """Also where a FASTA that became shorter left nothing of a shard."""
    (tmp_path / "few.fasta").write_text("".join(f">{i} p\n{'W' * (i + 1)}\n" for i in range(n)))
    few = Shard.index(tmp_path / "few.fasta")
    with WrittenFile(tmp_path / "few.h5") as file:
        writer = ShardWriter(file, few, REQUEST, DIM)
        writer.add(results_of(shard, np.arange(N)))
        if n:
            writer.add(results_of(few, np.arange(n)))
        facts = dict.fromkeys(WORK, 1)
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **facts})
        assert file["sequences/mean/6"].shape == (n, DIM)
    check_shard(tmp_path / "few.h5", few, SETTINGS)


@pytest.mark.parametrize("waiting", [[0], [N // 2, 7], [N - 1, 0], range(N)])
def test_values_of_smaller_windows_are_put_in_their_place(
    tmp_path: Path, shard: Shard, waiting: list[int]
) -> None:
    """More values than the length tells, or fewer: all come back, in order."""
    long = LongSequences("window", 60, 8, "smaller_windows")
    request = make_request(
        outputs=("contacts",), layers=(6,), precision="float32", long_sequences=long
    )
    sizes = shard.lengths.astype(np.int64) ** 2
    sizes[list(waiting)] += [5 if i % 2 else -5 for i in range(len(waiting))]
    values = np.repeat(np.arange(N), sizes).astype(np.float32)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    windows = np.ones(N, np.int32)
    windows[list(waiting)] = 2
    with WrittenFile(tmp_path / "s.h5") as file:
        writer = ShardWriter(file, shard, request, DIM)
        for which in np.array_split(np.random.default_rng(0).permutation(N), 7):
            own = np.concatenate([values[edges[i] : edges[i + 1]] for i in which])
            ragged = {"contacts/values": Ragged.of_sizes(own, sizes[which])}
            nothing: list[None] = [None] * len(which)
            writer.add(Results(shard.digests[which], nothing, windows[which], {}, ragged))
        facts = {"weights": "untrained", "embedding_dim": DIM, **dict.fromkeys(WORK, 1)}
        writer.finish(request.fingerprint("0"), facts)
        assert "outgrown" not in file
    check_shard(tmp_path / "s.h5", shard, request.fingerprint("0"))
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["sequences/contacts/offsets"][:].tolist() == edges.tolist()
        assert file["sequences/contacts/values"][:].tolist() == values.tolist()
