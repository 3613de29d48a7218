"""Signals to a command and what it started: real processes, also as the first of a container."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from snakemake_runs import REPOSITORY

WAIT_SECONDS = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY / "workflow_scripts")}
PARENT = """
import os, signal, sys
from spotesm.runs.supervise import supervise
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(supervise([sys.executable, sys.argv[1], *sys.argv[2:]], os.environ))
"""
# Stands for Snakemake: it has a job, and one whose own parent is gone; each saves when it is told.
SNAKEMAKE = """
import signal, subprocess, sys, time
from pathlib import Path
from spotesm.runs.supervise import StopWithJobs
job = '''
import signal, sys, time
from pathlib import Path
def save(number, _):
    time.sleep(0.3)  # takes longer than Snakemake takes to end
    Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit(1)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, save)
Path(sys.argv[1] + ".started").touch()
time.sleep(600)
'''
folder = Path(sys.argv[1])
orphan = [sys.executable, "-c", job, str(folder / "orphan")]
leave = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"
signals = StopWithJobs()
signals.begin()
children = [
    subprocess.Popen([sys.executable, "-c", job, str(folder / "job")]),
    subprocess.Popen([sys.executable, "-c", leave, *orphan]),
]
try:
    children[1].wait()
    if "gone" in sys.argv:
        while not all((folder / f"{name}.started").exists() for name in ("job", "orphan")):
            time.sleep(0.01)
        sys.exit(3)
    children[0].wait()
except KeyboardInterrupt:
    signals.wait()
    sys.exit(1)
"""
IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_unshare() -> bool:
    try:
        return subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def start(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    script = folder / "snakemake.py"
    script.write_text(SNAKEMAKE)
    line = [*prefix, sys.executable, "-c", PARENT, str(script), str(folder), *arguments]
    return subprocess.Popen(line, env=ENVIRONMENT, start_new_session=True)


def wait_for_jobs(folder: Path, process: subprocess.Popen) -> list[psutil.Process]:
    """Wait until both jobs are at work; all processes there are."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not all((folder / f"{name}.started").exists() for name in ("job", "orphan")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_jobs_save_and_it_ends_last(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start(tmp_path)
    others = wait_for_jobs(tmp_path, process)
    process.send_signal(number)
    process.send_signal(number)
    assert process.wait(WAIT_SECONDS) == code
    assert (tmp_path / "job").read_text() == number.name
    assert (tmp_path / "orphan").exists()
    assert not any(other.is_running() for other in others)


def test_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    if not can_unshare():
        pytest.skip("no namespaces here")
    process = start(tmp_path, prefix=IN_A_CONTAINER)
    others = wait_for_jobs(tmp_path, process)
    (first,) = psutil.Process(process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 143
    assert (tmp_path / "job").read_text() == "SIGTERM"
    assert (tmp_path / "orphan").exists()
    assert not any(other.is_running() for other in others)


def test_what_an_ended_snakemake_leaves_is_told_and_its_code_is_kept(tmp_path: Path) -> None:
    process = start(tmp_path, "gone")
    assert process.wait(WAIT_SECONDS) == 3
    assert (tmp_path / "job").read_text() == "SIGTERM"
    assert (tmp_path / "orphan").read_text() == "SIGTERM"


def test_where_the_parent_is_killed_the_jobs_save(tmp_path: Path) -> None:
    process = start(tmp_path)
    others = wait_for_jobs(tmp_path, process)
    try:
        process.kill()
        assert process.wait(WAIT_SECONDS) == -signal.SIGKILL
        psutil.wait_procs([other for other in others if "orphan" not in other.cmdline()[-1]])
        assert (tmp_path / "job").read_text() == "SIGTERM"
    finally:
        for other in others:
            if other.is_running():
                other.kill()


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """`nohup` means it."""
    process = start(tmp_path, prefix=("nohup",))
    others = wait_for_jobs(tmp_path, process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 143
    assert not any(other.is_running() for other in others)
