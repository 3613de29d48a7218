import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from spotesm.base.classification import classify
from spotesm.base.failures import OUT_OF_MEMORY, ShardBusyError
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import digests_of
from spotesm.sequences.reasons import Reason
from spotesm.shards.checkpoints import Thresholds, open_checkpoints

SETTINGS = {"weights_sha256": "abc", "layers": [6]}
NEVER = Thresholds(sequences=1 << 40, seconds=1e9, bytes=1 << 60)


def make_results(first: int, count: int, dim: int = 3) -> Results:
    digests = digests_of(b"%d" % i for i in range(first, first + count))
    mean = np.arange(first * dim, (first + count) * dim, dtype=np.float32).reshape(count, dim)
    sizes = np.arange(first, first + count)
    residues = Ragged.of_sizes(np.arange(sizes.sum(), dtype=np.float16).reshape(-1, 1), sizes)
    return Results(
        digests,
        [None] * (count - 1) + [Reason("not_finite", "NaN")],
        np.arange(first, first + count, dtype=np.int32),
        {"mean/6": mean},
        {"residues/6": residues},
    )


def read_all(directory: Path) -> list[Results]:
    """The batches of all parts."""
    with open_checkpoints(directory, SETTINGS, NEVER) as checkpoints:
        return list(checkpoints.read_parts())


def sizes_of_parts(directory: Path) -> list[int]:
    """How many sequences each part holds."""
    parts = [torch.load(path, weights_only=True) for path in sorted(directory.glob("part-*.pt"))]
    return [sum(len(batch["digests"]) for batch in part["batches"]) for part in parts]


def test_what_was_added_is_read_back_by_another_opening(tmp_path: Path) -> None:
    added = [make_results(0, 4), make_results(4, 2), make_results(6, 1)]
    with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
        checkpoints.add(added[0])
        checkpoints.add(added[1])
        checkpoints.flush()
        checkpoints.add(added[2])
        checkpoints.flush()
    assert sizes_of_parts(tmp_path) == [6, 1]
    for got, wanted in zip(read_all(tmp_path), added, strict=True):
        assert got.reasons == wanted.reasons
        np.testing.assert_array_equal(got.digests, wanted.digests)
        np.testing.assert_array_equal(got.windows, wanted.windows)
        np.testing.assert_array_equal(got.rows["mean/6"], wanted.rows["mean/6"])
        for field in ("values", "sizes"):
            a, b = (getattr(x.ragged["residues/6"], field) for x in (got, wanted))
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_want_of_memory_is_not_taken_for_damage(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
        checkpoints.add(make_results(0, 1000, dim=4096))
        checkpoints.flush()
    parts = list(tmp_path.glob("part-*.pt"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + (1 << 20), before[1]))
    try:
        with pytest.raises(RuntimeError, match="Cannot allocate memory") as shortage:
            read_all(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert classify(shortage.value) == OUT_OF_MEMORY
    assert list(tmp_path.glob("part-*.pt")) == parts
    assert len(read_all(tmp_path)[0].digests) == 1000


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


def test_what_was_not_flushed_is_not_there(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
        checkpoints.add(make_results(0, 4))
    assert read_all(tmp_path) == []


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (Thresholds(sequences=4, seconds=1e9, bytes=1 << 60), [4, 4]),
        (Thresholds(sequences=3, seconds=1e9, bytes=1 << 60), [4, 4]),  # parts end on batch edges
        (Thresholds(sequences=1 << 40, seconds=0, bytes=1 << 60), [2, 2, 2, 2]),
        # Sequence i takes 16 + 12 + 2 i bytes: the first three 90, the others 34 and more.
        (Thresholds(sequences=1 << 40, seconds=1e9, bytes=91), [4, 4]),
        (NEVER, [8]),
    ],
)
def test_whichever_threshold_comes_first(
    tmp_path: Path, thresholds: Thresholds, expected: list[int]
) -> None:
    with open_checkpoints(tmp_path, SETTINGS, thresholds) as checkpoints:
        for first in range(0, 8, 2):
            checkpoints.add(make_results(first, 2))
        checkpoints.flush()
    assert sizes_of_parts(tmp_path) == expected


def test_each_batch_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ten thousand batches of one sequence take minutes."""
    measured: list[int] = []
    monkeypatch.setattr(Results, "nbytes", property(lambda _: measured.append(1) or 1))
    five = Thresholds(sequences=1 << 40, seconds=1e9, bytes=5)
    with open_checkpoints(tmp_path, SETTINGS, five) as checkpoints:
        for first in range(0, 36, 2):
            checkpoints.add(make_results(first, 2))
        checkpoints.flush()
    assert len(measured) == 18
    assert sizes_of_parts(tmp_path) == [10, 10, 10, 6]


def test_numbers_go_on_and_never_overwrite(tmp_path: Path) -> None:
    for first in (0, 4):
        with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
            checkpoints.add(make_results(first, 4))
            checkpoints.flush()
    assert [path.name[:10] for path in sorted(tmp_path.glob("part-*.pt"))] == [
        "part-00001",
        "part-00002",
    ]


def test_the_first_token_budget_stays_until_another_is_asked_for(tmp_path: Path) -> None:
    def ask(requested: int, choice: int = 0) -> int:
        with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
            return checkpoints.fix_token_budget(requested, lambda: choice)

    assert [ask(100), ask(100), ask(200), ask(200)] == [100, 100, 200, 200]
    assert [ask(0, 512), ask(0, 1024)] == [512, 512]
    with open_checkpoints(tmp_path, SETTINGS, NEVER) as checkpoints:
        checkpoints.lower_token_budget(256)
    assert ask(0, 1024) == 256


def test_a_busy_shard_is_reported_in_one_line(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(ShardBusyError, match=f"{tmp_path}: another process"),
        open_checkpoints(tmp_path, SETTINGS, NEVER, lock_wait=0),
    ):
        pass


def test_the_lock_of_a_finished_process_is_free(tmp_path: Path) -> None:
    read_all(tmp_path)
    assert (tmp_path / "lock").exists()
    assert read_all(tmp_path) == []
