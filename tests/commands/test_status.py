"""What `make status` says, over files as jobs leave them, and over a real job that is killed."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console
from sequences import write_fasta
from shards import make_job, run, running, wait_until
from spotesm.__main__ import main
from spotesm.base.text import duration
from spotesm.commands import status
from spotesm.embed.progress import Snapshot
from spotesm.runs.state import ShardStatus, read_run

NOW = Snapshot(
    time=0.0,
    started=0.0,
    attempt=1,
    host="node1",
    pid=42,
    device="cuda:0",
    slurm_job=None,
    sequences=100,
    sequences_done=50,
    resumed=10,
    rejected=2,
    residues_done=900,
    tokens=2000,
    tokens_done=1000,
    tokens_per_second=500.0,
    seconds_to_go=2.0,
    parts=3,
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A dataset with a shard in every state."""
    shards = tmp_path / "results/d/shards"
    shards.mkdir(parents=True)
    start = {"event": "start", "host": "node1", "pid": 42}
    stopped = {"event": "stopped", "host": "node1"}
    failed = {"event": "failed", "host": "node1", "type": "cuda_runtime"}
    just_now, long_ago = replace(NOW, time=time.time()), replace(NOW, time=time.time() - 6000)
    states = [
        ([], None),
        ([start], just_now),
        ([start, stopped, start], long_ago),
        ([start, stopped], long_ago),
        ([start, failed, start, failed], replace(long_ago, rejected=0)),
        ([start, {"event": "completed"}], just_now),
        ([start, stopped, {**start, "pid": 43}], long_ago),  # loading its model
        ([start, {"event": "completed"}, start, stopped, start], just_now),
    ]
    for number, (events, progress) in enumerate(states, start=1):
        name = f"{number}-of-{len(states)}"
        (shards / f"{name}.fasta").write_text("")
        folder = tmp_path / "results/d/checkpoints" / name
        folder.mkdir(parents=True)
        lines = "".join(f"{json.dumps(event)}\n" for event in events)
        (folder / "journal.jsonl").write_text(lines)
        if progress:
            (folder / "progress.json").write_text(json.dumps(vars(progress)))
    with h5py.File(shards / "6-of-8.h5", "w") as file:
        file["ordinals"] = np.arange(9)
        file.attrs["n_embedded"] = 6
    return tmp_path / "results"


def test_each_state_is_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--results", str(results)])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        list(status.HEADER),
        ["d", "1-of-8", "waiting", "", "", "", "", "", ""],
        ["d", "2-of-8", "running", "50%", "500", "2 s", "", "2", "node1, cuda:0"],
        ["d", "3-of-8", "silent", "50%", "", "", "1", "2", "node1, for 1 h 40 min"],
        ["d", "4-of-8", "preempted", "50%", "", "", "", "2", "node1"],
        ["d", "5-of-8", "failed", "50%", "", "", "1", "", "cuda_runtime"],
        ["d", "6-of-8", "done", "100%", "", "", "", "3", ""],
        ["d", "7-of-8", "running", "50%", "", "", "1", "2", "node1"],
        ["d", "8-of-8", "running", "50%", "500", "2 s", "1", "2", "node1, cuda:0"],
        # 4.0 of 8 shards to go, at half a shard in two seconds by each of two jobs.
        ["d", "8 shards", "1 done", "50%", "1,000", "8 s", "4", "13", ""],
    ]


def test_a_terminal_gets_a_table(results: Path) -> None:
    console = Console(record=True, force_terminal=True, width=120)
    status.show(console, read_run(results))
    shown = console.export_text()
    assert "│ d       │ 5-of-8   │ failed" in shown


def test_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no shards of a run here"):
        main(["status", "--results", str(tmp_path)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (120, "2 min"), (11100, "3 h 05 min")]
)
def test_times_are_written_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_real_job_that_is_killed_and_resumed(tmp_path: Path, weights_manifest: Path) -> None:
    records = [(f"p{i}", "MKTAYIAKQR" * (3 + i % 4)) for i in range(40)]
    records = [
        (name, sequence + "ACDEFGHIKLMNPQRSTVWY"[i % 20] * (1 + i // 20))
        for i, (name, sequence) in enumerate(records)
    ]
    fasta = write_fasta(tmp_path / "in.fasta", records)
    folder = tmp_path / "results/d/shards"
    folder.mkdir(parents=True)
    job = make_job(folder, fasta, weights_manifest)
    job = replace(job, checkpoints=tmp_path / "results/d/checkpoints/1-of-1")

    def told() -> ShardStatus:
        return read_run(tmp_path / "results")[0]

    assert told().state == "waiting"
    brake = tmp_path / "brake"
    brake.write_text("0.3")
    with running(job, faults=f"brake={brake}") as process:
        # The file is replaced every two seconds.
        assert wait_until(lambda: (told().share or 0) > 0, process)
        before = told()
        assert before.state == "running"
        assert before.tokens_per_second > 0
        process.kill()
        process.join()
    assert told().share == before.share
    with running(job, faults=f"brake={brake}") as process:
        assert wait_until(lambda: told().restarts == 1, process)
        assert told().state == "running"
        process.terminate()
        process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert told().state == "preempted"
    assert run(job) == 0
    after = told()
    assert (after.state, after.share, after.restarts) == ("done", 1.0, 2)
