"""The door for rules: one line on what is wrong, marks for what cannot pass, logs that fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from spotesm.base.failures import DeviceError, InputError
from spotesm.machine.preemption import Preempted
from spotesm.step import step

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPOTESM_RUN", "this run")
    return tmp_path / "logs/1-of-1.log"


def attempt(log: Path, error: BaseException | None = None) -> tuple[int, bool, str]:
    """Run a step that raises an error; its exit code, whether it began, and its log."""
    began = False
    log.unlink(missing_ok=True)  # as Snakemake does
    try:
        with step(str(log)):
            began = True
            if error:
                raise error
        code = 0
    except SystemExit as end:
        code = end.code
    return code, began, log.read_text()


def test_what_cannot_pass_is_tried_once_in_a_run(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = InputError("in.fasta: größer als erlaubt")
    code, began, first = attempt(log, wrong)
    assert (code, began) == (1, True)
    for _ in range(2):
        code, began, again = attempt(log)
        assert (code, began) == (1, False)
        assert again.partition(" ")[2] == first.partition(" ")[2] == f"ERROR {wrong}\n"
    other = log.with_name("2-of-2.log")
    assert attempt(other)[:2] == (0, True)  # another job of the same run
    monkeypatch.setenv("SPOTESM_RUN", "next run")
    assert attempt(log)[:2] == (0, True)
    assert sorted(path.name for path in log.parent.iterdir()) == ["1-of-1.log", "2-of-2.log"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(DeviceError("x"), 1), (RuntimeError("a bug"), 1), (Preempted(15), 143), (None, 0)],
)
def test_what_may_pass_is_tried_again(log: Path, error: Exception | None, code: int) -> None:
    for _ in range(2):
        assert attempt(log, error)[:2] == (code, True)


def test_outside_of_a_run_nothing_is_remembered(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPOTESM_RUN")
    for _ in range(2):
        assert attempt(log, InputError("x"))[:2] == (1, True)


@pytest.mark.parametrize("mark", ["", "{}", "[]", "null", '{"run": "this run"}', "\x00"])
def test_a_mark_that_is_none_is_passed_over(log: Path, mark: str) -> None:
    log.parent.mkdir()
    log.with_name("1-of-1.failed.json").write_text(mark)
    assert attempt(log)[:2] == (0, True)


def run(log: Path, work: str) -> subprocess.CompletedProcess:
    """A step in a process of its own, as a rule's script is."""
    code = f"from spotesm.step import step\nwith step({str(log)!r}):\n    {work}"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY / "workflow_scripts")},
    )


LOG_TWICE = "import logging; logging.warning('one'); logging.warning('two'); print('done')"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_log_on_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.log").symlink_to("/dev/full")
    ended = run(tmp_path / "x.log", LOG_TWICE)
    assert ended.returncode == 0
    assert ended.stdout == "done\n"
    assert ended.stderr.count("no log: ") == 1
    assert f"no log: {tmp_path}/x.log: the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "two" in ended.stderr


@pytest.mark.parametrize("where", ["file/x.log", "x" * 300 + ".log", "folder"])
def test_a_log_that_cannot_be_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    ended = run(tmp_path / where, "print('never')")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert str(tmp_path) in ended.stderr
    assert "run again" in ended.stderr


def test_any_path_and_id_can_be_logged(tmp_path: Path) -> None:
    work = r"import logging; logging.error('%s %s', 'a\udcffb', 'ü'); print('ü\udcff')"
    ended = run(tmp_path / "x.log", work)
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1)
    assert (tmp_path / "x.log").read_text(encoding="utf-8").endswith("ERROR a\\udcffb ü\n")
