import os
from pathlib import Path

import pytest
from slurm_stubs import install_slurm_stubs
from spotesm.machine.slurm import requeue_this_job


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a job of our profile, on a machine with programs in SLURM's place."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in install_slurm_stubs(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SPOTESM_REQUEUE", "1")
    return tmp_path / "state"


def calls(state: Path) -> list[str]:
    path = state.with_name("calls")
    return path.read_text().splitlines() if path.exists() else []


def test_a_running_job_of_the_profile_is_requeued(state: Path) -> None:
    assert requeue_this_job()
    assert calls(state) == ["squeue --noheader --jobs 42 --format %T", "scontrol requeue 42"]


@pytest.mark.parametrize(("array", "task"), [("41", "0"), ("42", "17")])
def test_of_an_array_one_task_is_requeued(
    state: Path, array: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the last task is that of the whole array."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
    assert requeue_this_job()
    name = f"{array}_{task}"
    assert calls(state) == [
        f"squeue --noheader --jobs {name} --format %T",
        f"scontrol requeue {name}",
    ]


@pytest.mark.parametrize("said", ["COMPLETING\n", "PENDING\n", "CANCELLED\n", ""])
def test_a_job_that_somebody_decided_about_is_left_alone(state: Path, said: str) -> None:
    state.write_text(said)
    assert not requeue_this_job()
    assert len(calls(state)) == 1


@pytest.mark.parametrize("mark", [None, "", "0"])
def test_a_person_s_own_job_is_not_even_asked_about(
    state: Path, mark: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mark is None:
        monkeypatch.delenv("SPOTESM_REQUEUE")
    else:
        monkeypatch.setenv("SPOTESM_REQUEUE", mark)
    assert not requeue_this_job()
    assert calls(state) == []


def test_elsewhere_nothing_is_asked(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not requeue_this_job()
    assert calls(state) == []


def test_a_silent_slurm_is_no_error(state: Path) -> None:
    state.with_name("squeue").write_text("#!/bin/sh\nexit 1\n")
    assert not requeue_this_job()
