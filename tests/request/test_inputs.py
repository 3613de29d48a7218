"""Input files: found by name, known by content."""

import multiprocessing
import os
from pathlib import Path

import pytest
from spotesm.base.failures import ConfigError, InputError
from spotesm.request import inputs
from spotesm.request.inputs import choose_shards, find_fasta, know_by_content


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.fasta", "d/a.FAA", "d/c.fa.gz", "d/notes.txt", "d/.x.fasta", "e/z.fasta"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(">x\nM\n")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["d"], ["d/a.FAA", "d/b.fasta", "d/c.fa.gz"]),
        (["d/*.f*"], ["d/b.fasta", "d/c.fa.gz"]),
        (["e/z.fasta", "d/b.fasta"], ["e/z.fasta", "d/b.fasta"]),
        (["*/*.fasta"], ["d/b.fasta", "e/z.fasta"]),
        (["d/notes.txt"], ["d/notes.txt"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_folders_and_patterns_give_their_files_sorted(given: list[str], found: list[str]) -> None:
    assert find_fasta(given, "x") == found


@pytest.mark.parametrize("name", ["[1].fasta", "what?.fasta", 'a b\'s "c".fasta'])
def test_a_file_is_found_by_its_very_name(folder: Path, name: str) -> None:
    (folder / name).write_text(">x\nM\n")
    (folder / "1.fasta").write_text(">y\nM\n")
    (folder / "whats.fasta").write_text(">y\nM\n")
    assert find_fasta([name], "x") == [name]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["no.fasta"], "config: datasets: x: no such file: no.fasta"),
        (["d/*.pep"], "config: datasets: x: no such file: d/*.pep"),
        (["."], "config: datasets: x: .: no FASTA in this folder"),
        (["d/b.fasta", "d/*.fasta"], "config: datasets: x: d/b.fasta is named twice"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_names_no_file_is_refused(given: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_fasta(given, "x")
    assert str(caught.value).startswith(line)


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


def test_shards_go_by_size_and_keep_to_an_earlier_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = {"small": ["e/z.fasta"], "large": ["d/b.fasta", "d/c.fa.gz"]}  # 5; 5 + 2 x 5 bytes
    assert choose_shards(datasets, folder / "results") == 1
    monkeypatch.setattr(inputs, "BYTES_OF_A_SHARD", 5)
    assert choose_shards(datasets, folder / "results") == 4
    monkeypatch.setattr(inputs, "MOST_SHARDS", 3)
    assert choose_shards(datasets, folder / "results") == 3
    (folder / "results/small/shards").mkdir(parents=True)
    (folder / "results/small/shards/1-of-7.fasta").touch()
    assert choose_shards(datasets, folder / "results") == 7
