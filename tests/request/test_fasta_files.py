"""FASTA files: found by name, at any depth; named so that they are told apart; pipes."""

import bz2
import gzip
import os
import subprocess
import time
from pathlib import Path

import pytest
from spotesm.base.failures import ConfigError
from spotesm.request.fasta_files import Found, find_fasta, is_pipe, search, spool
from spotesm.sequences.sources import name_files, stem_of

FASTA = b">x\nM\n"
CONTENTS = {
    "d/b.fasta": FASTA,
    "d/a.FAA": FASTA,
    "d/c.fa.gz": gzip.compress(FASTA),
    "d/notes.txt": b"> to do\n> more\n",
    "d/README.md": FASTA,
    "d/.x.fasta": FASTA,
    "e/z.fasta": FASTA,
    "n/data/GCF_2/protein.faa": FASTA,
    "n/data/GCF_1/protein.faa": FASTA,
    "n/data/.old/protein.faa": FASTA,
    "n/data/md5sum.txt": b"d41d8 protein.faa\n",
    "n/seqres.txt": b"\n>1\n\nMK\n",
    "n/x.txt.bz2": bz2.compress(FASTA),
    "n/x.fsa": FASTA,
    "n/x.mpfa": FASTA,
    "n/x.faa.bgz": gzip.compress(FASTA),
    "n/headers.txt": b">a\n>b\n",
    "n/cut.txt.gz": gzip.compress(FASTA)[:-9],
    "r/own.fasta": FASTA,
    "r/results/p/shards/split.json": b"{}",
    "r/results/p/shards/1-of-1.fasta": FASTA,
    "r/results/q/contigs.json": b"{}",
    "r/results/q/orfs.fasta": FASTA,
    "none/notes.txt": b"nothing\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in CONTENTS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["d"], ["d/a.FAA", "d/b.fasta", "d/c.fa.gz"]),
        (["d/"], ["d/a.FAA", "d/b.fasta", "d/c.fa.gz"]),
        (["d/*.f*"], ["d/b.fasta", "d/c.fa.gz"]),
        (["e/z.fasta", "d/b.fasta"], ["e/z.fasta", "d/b.fasta"]),
        (["*/*.fasta"], ["d/b.fasta", "e/z.fasta", "r/own.fasta"]),
        (["**/protein.faa"], ["n/data/GCF_1/protein.faa", "n/data/GCF_2/protein.faa"]),
        (["n/data"], ["n/data/GCF_1/protein.faa", "n/data/GCF_2/protein.faa"]),
        (["d/notes.txt"], ["d/notes.txt"]),
        (["n/*.fsa", "n/data/GCF_2"], ["n/x.fsa", "n/data/GCF_2/protein.faa"]),
        (["r"], ["r/own.fasta"]),
    ],
)
def test_folders_and_patterns_give_their_files_sorted(given: list[str], found: list[str]) -> None:
    assert find_fasta(given, "x") == found


def test_what_is_left_out_is_said() -> None:
    found = search(["n"], "x")
    assert found.files == [
        "n/data/GCF_1/protein.faa",
        "n/data/GCF_2/protein.faa",
        "n/seqres.txt",
        "n/x.faa.bgz",
        "n/x.fsa",
        "n/x.mpfa",
        "n/x.txt.bz2",
    ]
    assert found.left_out == ["n/cut.txt.gz", "n/data/md5sum.txt", "n/headers.txt"]
    assert found.describe_left_out().startswith(
        "left out, as no FASTA by name: n/cut.txt.gz, n/data/md5sum.txt, n/headers.txt; name a file"
    )
    assert "a, b, c and 2 more;" in Found([], list("abcde")).describe_left_out()
    assert search(["e"], "x").describe_left_out() == ""
    assert search(["r", "d"], "x").left_out == [
        "r/results/p",
        "r/results/q",
        "d/README.md",
        "d/notes.txt",
    ]


def test_what_begins_with_a_dot_is_none_of_ours(folder: Path) -> None:
    assert find_fasta(["."], "x")[:3] == ["d/a.FAA", "d/b.fasta", "d/c.fa.gz"]
    assert not [path for path in find_fasta([str(folder)], "x") if "/." in path]


def test_links_are_followed_and_end(folder: Path) -> None:
    (folder / "d/up").symlink_to(folder / "d")
    (folder / "d/genomes").symlink_to(folder / "n/data")
    (folder / "d/y.fasta").symlink_to(folder / "e/z.fasta")
    (folder / "d/broken.fasta").symlink_to(folder / "none.fasta")
    assert find_fasta(["d"], "x") == [
        "d/a.FAA",
        "d/b.fasta",
        "d/c.fa.gz",
        "d/genomes/GCF_1/protein.faa",
        "d/genomes/GCF_2/protein.faa",
        "d/y.fasta",
    ]


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
        (["none"], "config: datasets: x: none: no FASTA in this folder; its files must end in"),
        (["n/data/.old/../../*/"], "config: datasets: x: n/data/.old/../../*/: matches no file"),
        (["d/b.fasta", "d/*.fasta"], "config: datasets: x: d/b.fasta is named twice"),
        (["d/b.fasta", "-"], "config: datasets: x: -: is a pipe; write it to a file"),
        (["/dev/stdin"], "config: datasets: x: /dev/stdin: is a pipe"),
    ],
)
def test_what_names_no_file_is_refused(given: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_fasta(given, "x")
    assert str(caught.value).startswith(line)


def test_many_files_take_no_square_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare each of 40,000 with each takes a minute."""
    monkeypatch.setattr("os.path.isfile", lambda _: True)
    given = [f"n/{number}/protein.faa" for number in range(40_000)]
    started = time.process_time()
    assert find_fasta(given, "x") == given
    assert name_files(given) == [str(number) for number in range(40_000)]
    assert time.process_time() - started < 8


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b.fasta", "b"),
        ("a/b.c.fasta.gz", "b.c"),
        ("b.bgz", "b"),
        ("b", "b"),
        ("proteomes/", "proteomes"),
    ],
)
def test_stems(path: str, stem: str) -> None:
    assert stem_of(path) == stem


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.faa", "b.faa"], ["a", "b"]),
        (["n/GCF_1.2/protein.faa", "n/GCF_2.1/protein.faa"], ["GCF_1.2", "GCF_2.1"]),
        (["a/p/x.faa", "b/p/x.faa.gz", "c/y.faa"], ["a", "b", "y"]),
        (["a/p/x.faa", "a/q/x.faa", "b/p/x.faa"], ["x", "x", "x"]),
        (["x.faa", "a/x.faa"], ["x", "x"]),
        (["/b/x.faa", "/a/x.faa"], ["b", "a"]),
        (["b/x.faa", "c/x.faa", "b.faa"], ["b", "c", "b"]),
    ],
)
def test_files_of_one_name_are_called_by_a_folder(paths: list[str], names: list[str]) -> None:
    assert name_files(paths) == names


# -- pipes -----------------------------------------------------------------------------------------


def test_what_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert all(map(is_pipe, ["-", "/dev/stdin", "/dev/fd/63", "/proc/self/fd/0", "fifo"]))
    assert is_pipe(folder / "fifo")
    assert not any(map(is_pipe, ["d", "d/b.fasta", "none.fasta", "./-"]))


def test_what_comes_through_a_pipe_is_kept_under_a_name_of_its_content(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    kept = []
    for content in (FASTA * 40_000, FASTA, FASTA * 40_000):
        (folder / "source").write_bytes(content)
        with subprocess.Popen(["cp", folder / "source", folder / "fifo"]) as copying:
            kept.append(spool(folder / "fifo", folder / "results/x"))
        assert copying.returncode == 0
        assert kept[-1].read_bytes() == content
    assert kept[0] == kept[2] != kept[1]
    assert sorted((folder / "results/x").iterdir()) == sorted(set(kept))
