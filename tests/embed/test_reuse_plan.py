"""What a plan says will be reused: of parts, which no job has read yet."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from spotesm.base.durable import read_json
from spotesm.embed.checkpoints import part_paths, read_part
from spotesm.embed.reuse import Past, find_done
from spotesm.sequences.digests import digests_of

DATA = Path(__file__).parents[1] / "data/format-1"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The parts of a shard of another split."""
    folder = tmp_path / "checkpoints/1-of-4"
    folder.mkdir(parents=True)
    for path in (*DATA.glob("part-*.pt"), DATA / "fingerprint.json"):
        shutil.copy(path, folder)
    return folder


def done_by(store: Path, settings: dict, digests: np.ndarray) -> list[bool]:
    past = Past(None, store.parent, None, [], but="3")
    return find_done(past, settings, digests).tolist()


def held_by(paths: list[Path], settings: dict) -> np.ndarray:
    held = [results.digests for path in paths for results in read_part(path, settings)]
    return np.concatenate(held)


def test_parts_of_the_same_settings_count(store: Path) -> None:
    settings = read_json(store / "fingerprint.json")
    held = held_by(part_paths(store), settings)
    digests = np.unique(np.concatenate([held, digests_of([b"MKV", b"MK", b"M"])]))
    expected = np.isin(digests, held).tolist()
    assert 0 < sum(expected) < len(expected)
    assert done_by(store, settings, digests) == expected
    of_now = Past(None, store.parent, None, [], but="4")
    assert not find_done(of_now, settings, digests).any()


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
