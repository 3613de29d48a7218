import os
from pathlib import Path

import pytest
from spotesm.machine.slurm import requeue_this_job


@pytest.fixture
def requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in SLURM's place: squeue prints the file `state`, scontrol notes its arguments."""
    scripts = {"squeue": f"cat {tmp_path}/state", "scontrol": f'echo "$@" >> {tmp_path}/calls'}
    for name, body in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return tmp_path / "calls"


def test_a_running_job_is_requeued(requeued: Path) -> None:
    requeued.with_name("state").write_text("RUNNING\n")
    assert requeue_this_job()
    assert requeued.read_text() == "requeue 42\n"


@pytest.mark.parametrize("state", ["COMPLETING\n", "PENDING\n", "CANCELLED\n", ""])
def test_a_job_that_somebody_decided_about_is_left_alone(requeued: Path, state: str) -> None:
    requeued.with_name("state").write_text(state)
    assert not requeue_this_job()
    assert not requeued.exists()


def test_elsewhere_nothing_is_asked(requeued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not requeue_this_job()
    assert not requeued.exists()


def test_a_silent_slurm_is_no_error(requeued: Path) -> None:
    (requeued.with_name("squeue")).write_text("#!/bin/sh\nexit 1\n")
    assert not requeue_this_job()
