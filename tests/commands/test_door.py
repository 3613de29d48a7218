"""What every command does: one line for what is wrong, quiet ends, any locale."""

import contextlib
import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sequences import write_fasta
from spotesm import __main__ as door
from spotesm.__main__ import main
from spotesm.base.failures import InputError

WAIT_SECONDS = 60.0
LIBRARY = str(Path(door.__file__).parents[1])
SUMMARY = {
    "file": "results/é/embeddings.h5",
    "n_embedded": 7,
    "embedding_dim": 320,
    "n_rejected": 2,
    "seconds": 3.4,
    "untrained": False,
}


@contextlib.contextmanager
def start(*arguments: object, **options: object) -> Iterator[subprocess.Popen]:
    """A command in a process of its own, of which nothing is left afterwards."""
    environment = {**os.environ, "PYTHONPATH": LIBRARY, **options.pop("env", {})}
    command = [sys.executable, "-m", "spotesm", *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c, **options
    ) as process:
        try:
            yield process
        except BaseException:  # waiting for it might have no end
            process.kill()
            raise


def hear_ctrl_c() -> None:
    """A shell that runs the tests in the background has SIGINT ignored; children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A dataset of a name that not every terminal can write, with a shard that waits."""
    shards = tmp_path / "results/é/shards"
    shards.mkdir(parents=True)
    (shards / "1-of-1.fasta").write_text("")
    (tmp_path / "results/é/summary.json").write_text(json.dumps(SUMMARY))
    return tmp_path / "results"


def commands(results: Path) -> list[tuple[list[object], str]]:
    """Commands that print, and a piece of what they do."""
    return [
        (["status", "--results", results], "\t1-of-1\twaiting"),
        (["summary", results / "é/summary.json"], "/embeddings.h5: 7 rows of 320"),
        (["--help"], "verify"),
    ]


def test_a_reader_that_has_left(results: Path) -> None:
    """As `| head` does."""
    for arguments, _ in commands(results)[:2]:
        reading, writing = os.pipe()
        os.close(reading)
        with start(*arguments, stdout=writing) as process:
            os.close(writing)
            assert process.stderr.read() == b""
        assert process.returncode == 1


def test_no_standard_output(results: Path) -> None:
    for arguments, _ in commands(results)[:2]:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "spotesm", *arguments]
        environment = {**os.environ, "PYTHONPATH": LIBRARY}
        ended = subprocess.run(command, env=environment, capture_output=True)
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("utf8", [False, True])
def test_letters_of_any_locale(results: Path, utf8: bool) -> None:
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": ""}
    for arguments, said in commands(results):
        with start(
            *arguments, stdout=subprocess.PIPE, env={"PYTHONUTF8": "1"} if utf8 else bare
        ) as process:
            out = process.stdout.read()
            assert process.stderr.read() == b""
        assert process.returncode == 0
        assert said.encode() in out
        assert not utf8 or "é".encode() in out or arguments == ["--help"]


def test_ctrl_c_while_it_reads(results: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with start("summary", tmp_path / "pipe", stdout=subprocess.PIPE) as process:
        with open(tmp_path / "pipe", "w"):  # opens when the command reads
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 130
        assert (process.stdout.read(), process.stderr.read().strip()) == (b"", b"")


def test_ctrl_c_while_it_watches(results: Path) -> None:
    screen, terminal = pty.openpty()
    with start(
        "status",
        "--results",
        results,
        "--watch",
        stdout=terminal,
        env={"TERM": "xterm", "COLUMNS": "200"},
    ) as process:
        os.close(terminal)
        shown = b""
        while b"waiting" not in shown:
            assert select.select([screen], [], [], WAIT_SECONDS)[0], shown
            shown += os.read(screen, 1 << 16)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 0
        assert process.stderr.read() == b""
    os.close(screen)


# -- summary ---------------------------------------------------------------------------------------


def test_a_summary_is_a_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results / "é/summary.json"
    main(["summary", str(path), str(path)])
    line = "results/é/embeddings.h5: 7 rows of 320 dimensions (2 records rejected), computed in 3 s"
    assert capsys.readouterr().out.splitlines() == [line, line]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"text", b"{", b"[]", b"null", b"5", b'"x"', b"{}", b"\xff\xfe", b"\x89HDF\r\n"),
        json.dumps({**SUMMARY, "seconds": "x"}).encode(),
        json.dumps({**SUMMARY, "seconds": None}).encode(),
        *(json.dumps({k: v for k, v in SUMMARY.items() if k != gone}).encode() for gone in SUMMARY),
    ],
)
def test_a_foreign_summary(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["summary", str(path)])
    assert caught.value.code == f"{path}: is no summary.json that a merge wrote"


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "No such file or directory"), (".", "Is a directory"), ("n" * 300, "File name too ")],
)
def test_a_summary_that_cannot_be_read(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["summary", str(tmp_path / name)])
    assert caught.value.code.startswith(f"{tmp_path / name}: cannot be read ({why}")


# -- the door itself -------------------------------------------------------------------------------


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command that ends with an error."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(door._Commands, "get_command", lambda *_: failing)
    main(["failing"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("in.fasta: no"), "in.fasta: no"),
        (
            OSError(errno.ENOTUNIQ, "Name not unique on network", "x"),
            "x: Name not unique on network",
        ),
        (
            MemoryError("Unable to allocate 5 TiB"),
            "memory has run out (Unable to allocate 5 TiB); ",
        ),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("no"), 2),
    ],
    ids=repr,
)
def test_what_is_wrong_outside_the_code_is_a_line(
    error: BaseException, code: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as caught:
        raising(error, monkeypatch)
    found = caught.value.code
    assert found.startswith(code) if isinstance(code, str) else found == code


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), OSError("x"), ValueError("x")])
def test_a_bug_keeps_its_trace(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)) as caught:
        raising(error, monkeypatch)
    assert caught.value is error


@pytest.mark.parametrize(
    "arguments",
    [
        *(["none"], ["status", "--none"], ["status", "x"], ["verify"], ["verify", "x"]),
        *(["export"], ["export", "none", "x", "y"], ["export", "npz", "x"], ["summary"]),
        *(["export", "npz", "x", "y", "z"], ["verify", "x", "y", "--seed", "x"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: spotesm")
    assert said.count("\nError: ") == 1


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The line is written, though HDF5 would crash on its way out."""
    with start(
        "summary", write_fasta(tmp_path / "x", []), stdout=open("/dev/full", "wb")
    ) as process:
        assert process.stderr.read().decode().startswith(str(tmp_path / "x"))
    assert process.returncode == 1
