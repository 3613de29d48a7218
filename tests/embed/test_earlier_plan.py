"""What a plan says will be reused: of parts, which no job has read yet."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from spotesm.base.durable import read_json
from spotesm.embed.earlier import Past, _share_digests, find_done
from spotesm.sequences.digests import digests_of
from spotesm.sequences.sharding import divide_digests
from spotesm.shards.parts import Part, part_paths
from tiny_dataset import write_dataset


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parts of a shard of another split."""
    folder = write_dataset(tmp_path / "checkpoints/1-of-4", monkeypatch)
    return folder


def done_by(store: Path, settings: dict, digests: np.ndarray) -> list[bool]:
    past = Past(None, store.parent, None, [])
    return find_done(past, settings, digests, np.full(len(digests), 5)).tolist()


def held_by(paths: list[Path], settings: dict) -> np.ndarray:
    held = [r.digests for path in paths for r in Part(path, settings).read_all()]
    return np.concatenate(held)


def test_parts_of_the_same_settings_count(store: Path) -> None:
    settings = read_json(store / "fingerprint.json")
    held = held_by(part_paths(store), settings)
    digests = np.unique(np.concatenate([held, digests_of([b"MKV", b"MK", b"M"])]))
    expected = np.isin(digests, held).tolist()
    assert 0 < sum(expected) < len(expected)
    assert done_by(store, settings, digests) == expected
    of_now = Past(None, store.parent, None, [], shard="2-of-4")
    assert not find_done(of_now, settings, digests, np.full(len(digests), 5)).any()


@pytest.mark.parametrize(
    ("shard", "met"),
    [("1-of-3", True), ("2-of-3", False), ("1-of-8", True), ("2-of-8", True), ("3-of-8", False)],
)
def test_only_shards_whose_digests_may_meet_are_opened(
    store: Path, monkeypatch: pytest.MonkeyPatch, shard: str, met: bool
) -> None:
    """That of the store is the first of four."""
    opened: list[Path] = []
    monkeypatch.setattr(Past, "_in_store", lambda _, folder: opened.append(folder) or ())
    list(Past(None, store.parent, None, [], shard=shard).find_sources())
    assert opened == [store] * met


def test_of_any_two_splits_those_are_opened_that_share_a_digest() -> None:
    """Compared with the edges themselves."""
    for n in range(1, 12):
        for m in set(range(1, 12)) - {n}:
            (a, b) = ([0, *divide_digests(k).tolist(), 1 << 64] for k in (n, m))
            for i, j in itertools.product(range(n), range(m)):
                meets = max(a[i], b[j]) < min(a[i + 1], b[j + 1])
                assert _share_digests(f"{i + 1}-of-{n}", f"{j + 1}-of-{m}") == meets


@pytest.mark.parametrize(
    ("change", "lengths"),
    [
        ({"policy": "whole"}, [20]),
        ({"policy": "window", "window": 10, "overlap": 2}, [10]),
        ({"out_of_memory": "smaller_windows", "overlap": 3}, [20, 21, 500]),
        ({}, [20, 21, 500]),
    ],
)
def test_what_is_cut_as_it_was_counts(store: Path, change: dict, lengths: list[int]) -> None:
    """The parts are of `reject` at 20: long ones of any other policy are to be computed."""
    settings = read_json(store / "fingerprint.json")
    held = np.unique(held_by(part_paths(store), settings))[:3]
    ours = {**settings, "long_sequences": {**settings["long_sequences"], **change}}
    past = Past(None, store.parent, None, [])
    for length in (1, 10, 11, 20, 21, 500):
        done = find_done(past, ours, held, np.full(len(held), length))
        assert done.tolist() == [length <= max(lengths)] * len(held), length


def test_parts_that_hold_more_than_is_asked_for_count(store: Path) -> None:
    settings = read_json(store / "fingerprint.json")
    held = np.unique(held_by(part_paths(store), settings))
    assert len(settings["outputs"]) > 1
    assert all(done_by(store, {**settings, "outputs": ["mean"]}, held))


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"weights_sha256": "0" * 64}])
def test_parts_of_other_settings_do_not(store: Path, change: dict) -> None:
    settings = read_json(store / "fingerprint.json")
    held = np.unique(held_by(part_paths(store), settings))
    assert not any(done_by(store, {**settings, **change}, held))


@pytest.mark.parametrize("which", [0, -1])
def test_a_damaged_part_does_not_count(
    store: Path, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = read_json(store / "fingerprint.json")
    paths = part_paths(store)
    held = np.unique(held_by(paths, settings))
    damaged = paths[which]
    others = held_by([path for path in paths if path != damaged], settings)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert done_by(store, settings, held) == np.isin(held, others).tolist()
    assert "not used" in caplog.text
