"""Small files that may be damaged: where checkpoints are, as an example."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from spotesm.base.paths import DatasetPaths
from spotesm.base.state import read_state

RUBBISH = ("", "[]", "null", "7", '"text"', '{"checkpoints": 7}', '{"check', "{}", "[" * 100_000)
Logged = pytest.LogCaptureFixture


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "results/d/checkpoints.json"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("rubbish", [text.encode() for text in RUBBISH] + [b"\xff\xfe" * 9])
def test_a_job_sets_it_aside_and_writes_it_anew(note: Path, rubbish: bytes, caplog: Logged) -> None:
    note.write_bytes(rubbish)
    dataset = DatasetPaths(note.parent)
    assert dataset.checkpoints == note.parent / "checkpoints"
    assert note.read_bytes() == rubbish  # who only looks changes nothing
    assert caplog.messages == []
    for _ in range(2):
        dataset.note_checkpoints(Path("scratch/d"))
    assert dataset.checkpoints == note.parents[2] / "scratch/d"
    assert (note.parent / "set-aside/checkpoints.json").read_bytes() == rubbish
    assert caplog.messages == [f"{note} is damaged; set aside: this job writes it anew"]


def is_whole(content: dict) -> bool:
    return "a" in content


@pytest.mark.parametrize(
    ("content", "fits", "expected"),
    [('{"a": 1}', is_whole, {"a": 1}), ('{"b": 1}', is_whole, None), ("{}", bool, None)],
)
def test_what_fits_is_returned(note: Path, content: str, fits: Callable, expected: object) -> None:
    assert read_state(note, fits, "never mind") is None
    assert not (note.parent / "set-aside").exists()
    note.write_text(content)
    assert read_state(note, fits, "never mind") == expected
    assert note.exists() == (expected is not None)


def test_another_one_is_written_where_it_was(note: Path) -> None:
    """Whatever was set aside under the name before."""
    for text in ("{", "[", "("):
        note.write_text(text)
        DatasetPaths(note.parent).note_checkpoints(Path("x"))
        assert json.loads(note.read_text()) == {"checkpoints": "x"}
        assert (note.parent / "set-aside/checkpoints.json").read_text() == text
