"""Input files: known by content; how many shards suit them."""

import multiprocessing
import os
from pathlib import Path

import pytest
from spotesm.base.failures import InputError
from spotesm.base.paths import DatasetPaths
from spotesm.request import inputs
from spotesm.request.inputs import Split, choose_split, know_by_content


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.fasta", "d/a.FAA", "d/c.fa.gz", "d/notes.txt", "d/.x.fasta", "e/z.fasta"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(">x\nM\n")
    return tmp_path


def test_content_is_known_whatever_the_date(folder: Path) -> None:
    memory, path = folder / "memory.json", folder / "d/b.fasta"
    before = know_by_content([str(path)], memory)
    os.utime(path, (0, 0))
    assert know_by_content([str(path)], memory) == before
    path.write_text(">x\nW\n")  # of the same size, and older
    os.utime(path, (0, 0))
    after = know_by_content([str(path)], memory)
    assert after != before
    path.write_text(">x\nM\n")
    assert know_by_content([str(path)], memory) == before


def test_a_file_that_has_not_changed_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, path = folder / "memory.json", str(folder / "d/b.fasta")
    known = know_by_content([path], memory)
    monkeypatch.setattr(inputs.hashlib, "file_digest", None)
    assert know_by_content([path], memory) == known


@pytest.mark.parametrize("content", ['{"', "[1]", "7"])
def test_a_damaged_memory_is_no_harm(folder: Path, content: str) -> None:
    memory, path = folder / "memory.json", str(folder / "d/b.fasta")
    known = know_by_content([path], memory)
    memory.write_text(content)
    assert know_by_content([path], memory) == known


def _know(paths: list[str], memory: Path, expected: list[str]) -> None:
    for _ in range(50):
        assert know_by_content(paths, memory) == expected
        memory.unlink(missing_ok=True)  # so that each time it is written


def test_several_runs_remember_at_once(folder: Path) -> None:
    """Who writes a file removes the temporary ones of others."""
    memory, paths = folder / "memory.json", ["d/b.fasta", "e/z.fasta"]
    expected = know_by_content(paths, memory)
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_know, args=(paths, memory, expected)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0, 0]


def test_a_missing_file_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no.fasta: cannot be read \(No such file"):
        know_by_content(["no.fasta"], folder / "memory.json")


@pytest.fixture
def dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetPaths:
    """One whose input is 10 bytes, at 5 bytes a shard."""
    (folder / "in.fasta").write_text(">x\nMKVLA\n")
    monkeypatch.setattr(inputs, "BYTES_OF_A_SHARD", 5)
    return DatasetPaths(folder / "results/d")


def grow(folder: Path, size: int) -> list[str]:
    (folder / "in.fasta").write_bytes(b"x" * size)
    return ["in.fasta"]


@pytest.mark.parametrize(
    ("size", "shards"), [(0, 1), (4, 1), (5, 2), (14, 2), (15, 4), (39, 8), (75, 16), (10_000, 64)]
)
def test_shards_go_by_size(
    folder: Path, dataset: DatasetPaths, monkeypatch: pytest.MonkeyPatch, size: int, shards: int
) -> None:
    monkeypatch.setattr(inputs, "MOST_SHARDS", 100)
    assert choose_split("auto", grow(folder, size), dataset) == Split(shards, size)
    (folder / "in.fasta").rename(folder / "in.fasta.gz")  # of which more comes out
    assert choose_split("auto", ["in.fasta.gz"], dataset).chosen_for == 2 * size
    assert choose_split(7, grow(folder, size), dataset) == Split(7, size)


@pytest.mark.parametrize(
    ("size", "shards"), [(24, 4), (25, 7), (100, 7), (400, 7), (401, 64), (2000, 256)]
)
def test_a_number_is_kept_within_a_factor_of_four(
    folder: Path, dataset: DatasetPaths, size: int, shards: int
) -> None:
    """Of what it was chosen for, not of what it was when it was split last."""
    dataset.note_split(7, chosen_for=100)
    chosen_for = 100 if shards == 7 else size
    assert choose_split("auto", grow(folder, size), dataset) == Split(shards, chosen_for, before=7)
    assert choose_split(3, grow(folder, size), dataset) == Split(3, size, before=7)


@pytest.mark.parametrize("rubbish", [None, "[]", "{", '{"shards": "7", "chosen_for": 100}'])
@pytest.mark.parametrize(("size", "shards"), [(24, 4), (25, 5), (400, 5), (401, 64)])
def test_without_a_note_the_shards_tell(
    folder: Path, dataset: DatasetPaths, size: int, shards: int, rubbish: str | None
) -> None:
    """Five, of 100 bytes in all; three of an older split are no news."""
    (dataset.folder / "shards").mkdir(parents=True)
    if rubbish:
        (dataset.folder / "shards.json").write_text(rubbish)
    for number, bytes_each in ((3, 9999), (5, 20)):
        for i in range(1, number + 1):
            path = dataset.folder / f"shards/{i}-of-{number}.fasta"
            path.write_bytes(b"x" * bytes_each)
            os.utime(path, (number, number))
    assert [path.stem for path in dataset.shards] == [f"{i}-of-5" for i in range(1, 6)]
    chosen_for = 100 if shards == 5 else size
    assert choose_split("auto", grow(folder, size), dataset) == Split(shards, chosen_for, before=5)


def test_the_shards_of_now_are_those_written_down(dataset: DatasetPaths) -> None:
    (dataset.folder / "shards").mkdir(parents=True)
    for number in (2, 4):
        for i in range(1, number + 1):
            (dataset.folder / f"shards/{i}-of-{number}.fasta").touch()
    for number in (4, 2, 4):
        dataset.note_split(number, 1)
        assert [path.stem for path in dataset.shards] == [
            f"{i}-of-{number}" for i in range(1, number + 1)
        ]


def test_a_new_number_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Split(4, 1, before=4).tell()
    Split(4, 1).tell()
    assert caplog.messages == []
    Split(1, 1, before=4).tell()
    (line,) = caplog.messages
    assert line.startswith("now in 1 shard, not 4 as before: ")
