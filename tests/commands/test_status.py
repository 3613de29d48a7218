"""What `make status` says, over files as jobs leave them, and over a real job that is killed."""

import io
import json
import re
import shutil
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
from spotesm.base.paths import DatasetPaths
from spotesm.base.text import duration
from spotesm.commands import status
from spotesm.embed.progress import Snapshot
from spotesm.runs.explain import explain_failures
from spotesm.runs.history import read_history
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
    reused=4,
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
        file["records/ordinals"] = np.arange(9)
        file.attrs["n_embedded"] = 6
        file.attrs["n_reused"] = 5
    return tmp_path / "results"


def test_each_state_is_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--results", str(results)])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        list(status.HEADER),
        ["d", "1-of-8", "waiting", "", "", "", "", "", "", ""],
        ["d", "2-of-8", "running", "50%", "500", "2 s", "", "2", "4", "node1, cuda:0"],
        ["d", "3-of-8", "silent", "50%", "", "", "1", "2", "4", "node1, for 1 h 40 min"],
        ["d", "4-of-8", "preempted", "50%", "", "", "", "2", "4", "node1"],
        ["d", "5-of-8", "failed", "50%", "", "", "1", "", "4", "cuda_runtime"],
        ["d", "6-of-8", "done", "100%", "", "", "", "3", "5", ""],
        ["d", "7-of-8", "running", "50%", "", "", "1", "2", "4", "node1"],
        ["d", "8-of-8", "running", "50%", "500", "2 s", "1", "2", "4", "node1, cuda:0"],
        # 4.0 of 8 shards to go, at half a shard in two seconds by each of two jobs.
        ["d", "8 shards", "1 done", "50%", "1,000", "8 s", "4", "13", "29", ""],
    ]


def test_a_terminal_gets_what_is_not_done_and_totals(results: Path) -> None:
    other = results / "e/shards"
    other.mkdir(parents=True)
    (other / "1-of-1.fasta").touch()
    console = Console(record=True, force_terminal=True, width=120, file=io.StringIO())
    status.show(console, read_run(results))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]
    assert [row[:4] for row in rows] == [
        ["d", "2-of-8", "running", "50%"],
        ["d", "3-of-8", "silent", "50%"],
        ["d", "4-of-8", "preempted", "50%"],
        ["d", "5-of-8", "failed", "50%"],
        ["d", "7-of-8", "running", "50%"],
        ["d", "8-of-8", "running", "50%"],
        ["d", "1 more", "waiting", ""],
        ["d", "8 shards", "1 done", "50%"],
        ["e", "1 more", "waiting", ""],
        ["e", "1 shard", "0 done", "0%"],
        ["", "9 shards", "1 done", "44%"],
    ]
    assert rows[-1][4:6] == ["1,000", "10 s"]


@pytest.mark.parametrize(("restarts", "end"), [(0, []), (3, ["restarts"])])
def test_columns_without_content_are_left_out(restarts: int, end: list[str]) -> None:
    shard = ShardStatus("proteome", "1-of-1", "done", share=1.0, restarts=restarts)
    console = Console(record=True, force_terminal=True, width=60, file=io.StringIO())
    console.print(status.make_table([shard]))
    header, total = (
        [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]
        for line in console.export_text().splitlines()
        if line[0] in "┃│"
    )
    assert header == ["dataset", "shard", "state", "share", *end]
    assert total == ["proteome", "1 shard", "1 done", "100%", *map(str, end and [restarts])]


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


# -- files of crashes, of other versions, of others ------------------------------------------------

FOREIGN = {
    "empty": b"",
    "text": b"hello\n",
    "half a line": b'{"event": "start", "host": "node1", "pi',
    "no text": b"\xff\xfe\x00\n\x00",
    "null": b"null\n",
    "a list": b"[1, 2]\n",
    "a number": b"5\n",
    "no event": b'{"host": "node1"}\n',
    "an odd event": b'{"event": 5}\n{"event": ["start"]}\n{"event": null}\n',
    "unknown event": b'{"event": "paused", "host": "node1", "pid": 42}\n',
    "a bare start": b'{"event": "start"}\n',
    "a bare stop": b'{"event": "start"}\n{"event": "stopped"}\n',
    "a bare failure": b'{"event": "start"}\n{"event": "failed"}\n',
    "odd values": b'{"event": "start", "host": 7, "pid": "42", "time": 3}\n'
    b'{"event": "failed", "type": ["x"], "host": null}\n',
    "odd times": b'{"event": "start", "time": "yesterday"}\n{"event": "stopped", "time": null}\n',
    "one good line": b'garbage\n{"event": "start", "host": "node1", "pid": 42}\n{"event": "sto',
}


@pytest.mark.parametrize("name", ["journal.jsonl", "progress.json", "speed.jsonl"])
@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_foreign_files_of_a_shard(
    results: Path, number: int, content: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = results / "d/checkpoints"
    (checkpoints / f"{number}-of-8" / name).write_bytes(FOREIGN[content])
    main(["status", "--results", str(results)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert [len(line.split("\t")) for line in lines] == [len(status.HEADER)] * 10
    read_history(checkpoints)
    explain_failures(0, results)


ODD_PROGRESS = [
    *({field: value} for field in vars(NOW) for value in ([], "x", None)),
    *({"seconds_to_go": value} for value in (float("nan"), float("inf"), -5.0, 1e300)),
    *({"tokens_per_second": value} for value in (float("nan"), float("inf"), 7)),
    *({"tokens": 0, "tokens_done": 0}, {"of_a_newer_version": 1}, {"time": 1e18}, {"time": -1.0}),
]


@pytest.mark.parametrize("odd", ODD_PROGRESS, ids=repr)
def test_odd_progress(results: Path, odd: dict, capsys: pytest.CaptureFixture[str]) -> None:
    told = {**vars(NOW), "time": time.time(), **odd}
    (results / "d/checkpoints/2-of-8/progress.json").write_text(json.dumps(told))
    main(["status", "--results", str(results)])
    row = capsys.readouterr().out.splitlines()[2].split("\t")
    assert row[:2] == ["d", "2-of-8"]
    assert row[2] in ("running", "silent")
    if "of_a_newer_version" in odd:
        assert row[3:5] == ["50%", "500"]


@pytest.mark.parametrize("field", list(vars(NOW)))
def test_progress_of_another_version_is_no_progress(results: Path, field: str) -> None:
    told = {**vars(NOW), "time": time.time()}
    del told[field]
    (results / "d/checkpoints/2-of-8/progress.json").write_text(json.dumps(told))
    shard = read_run(results)[1]
    assert (shard.state, shard.share, shard.detail) == ("running", None, "node1")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"{", b"[]", b"null", b'"x"', b"{}", b'{"checkpoints": 5}', b"\xff"]
)
def test_a_foreign_note_of_where_checkpoints_are(results: Path, content: bytes) -> None:
    expected = read_run(results)
    (results / "d/checkpoints.json").write_bytes(content)
    assert [shard.state for shard in read_run(results)] == [shard.state for shard in expected]
    DatasetPaths(results / "d").note_checkpoints(Path("scratch/d"))
    assert json.loads((results / "d/checkpoints.json").read_text()) == {"checkpoints": "scratch/d"}


@pytest.mark.parametrize("where", ["results", ".", "..", "../results", "../../elsewhere/results"])
def test_from_any_folder(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Where the checkpoints are is written down relative to the folder of the run."""
    run = tmp_path / "elsewhere"
    run.mkdir()
    shutil.move(results, run / "results")
    shutil.move(run / "results/d/checkpoints", run / "scratch" / "d")
    DatasetPaths(run / "results/d").note_checkpoints(Path("scratch/d"))
    start = {"results": run, ".": run / "results", "..": run / "results/d"}
    monkeypatch.chdir(start.get(where, run / "results"))
    states = [shard.state for shard in read_run(Path(where))]
    expected = ["waiting", "running", "silent", "preempted", "failed", "done", "running", "running"]
    assert states == expected


@pytest.mark.parametrize("number", [2, 5, 6])
@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89HDF\r\n\x1a\n", "no datasets", "a scalar", "odd attribute"]
)
def test_foreign_files_in_the_place_of_a_shard_s(
    results: Path, number: int, content: bytes | str
) -> None:
    path = results / f"d/shards/{number}-of-8.h5"
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with h5py.File(path, "w") as file:
            if content != "no datasets":
                file["records/ordinals"] = 5 if content == "a scalar" else np.arange(3)
                file.attrs["n_embedded"] = "x" if content == "odd attribute" else 2
    shard = read_run(results)[number - 1]
    assert (shard.state, shard.rejected) == ("done", 0)


def test_what_is_no_shard_is_passed_over(results: Path) -> None:
    expected = read_run(results)
    for name in ("a-of-b.fasta", "x.fasta", "1-of-.fasta", "-of-.fasta", "1-of-8.fasta.tmp"):
        (results / "d/shards" / name).write_text("")
    (results / "text").write_text("")
    (results / "d/checkpoints/a-of-b").mkdir()
    (results / "d/checkpoints/mine.txt").write_text("")
    assert read_run(results) == expected
    assert len(read_history(results / "d/checkpoints")) == 0  # no event here has a time


@pytest.mark.parametrize("made", ["missing", "a file", "empty", "no shards"])
def test_no_run_here(tmp_path: Path, made: str) -> None:
    folder = tmp_path / "x"
    if made == "a file":
        folder.write_text("mine")
    elif made != "missing":
        (folder / ("d/shards" if made == "no shards" else "")).mkdir(parents=True)
    for options in ([], ["--watch"]):
        with pytest.raises(SystemExit) as caught:
            main(["status", "--results", str(folder), *options])
        assert (
            caught.value.code
            == f"{folder}: no shards of a run here; is this the folder of the run?"
        )
