"""What the screen shows, over logs and progress as jobs leave them."""

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from spotesm.commands.screen import SECONDS_BETWEEN_LINES, Screen
from spotesm.runs.explain import explain_failures


class Run:
    """A run of two shards of one dataset, the second of which works; and an older dataset."""

    def __init__(self, folder: Path, terminal: bool) -> None:
        self.results = folder / "results"
        self.shown = io.StringIO()
        self.now = 1000.0
        console = Console(file=self.shown, force_terminal=terminal, width=120, color_system=None)
        self.screen = Screen(console, self.results, clock=lambda: self.now)
        # The test looks when it wants to.
        self.screen.thread.start = lambda: None
        for dataset, shard in (("d", "1-of-2"), ("d", "2-of-2"), ("old", "1-of-1")):
            fasta = self.results / dataset / "shards" / f"{shard}.fasta"
            fasta.parent.mkdir(parents=True, exist_ok=True)
            fasta.touch()
        (self.results / "old/shards/1-of-1.h5").touch()
        folder = self.results / "d/checkpoints/2-of-2"
        folder.mkdir(parents=True)
        start = {"event": "start", "host": "node1", "pid": 42}
        lines = [start, {"event": "stopped"}, start]
        (folder / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        counts = ("sequences", "sequences_done", "resumed", "residues_done", "parts")
        progress = dict.fromkeys(counts, 0) | {
            **{"time": time.time(), "started": 0.0, "attempt": 2, "host": "node1", "pid": 42},
            **{"device": "cpu", "slurm_job": None, "rejected": 3, "reused": 0},
            **{"tokens": 100, "tokens_done": 50, "tokens_per_second": 1500.0, "seconds_to_go": 9.0},
        }
        (folder / "progress.json").write_text(json.dumps(progress))

    def log(self, name: str, *lines: str, dataset: str = "d") -> Path:
        path = self.results / dataset / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"2026-01-01T00:00:00 {line}\n" for line in lines))
        return path

    def take(self) -> list[str]:
        """What has been shown since it was asked last."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.getvalue()).replace("\r", "\n")
        self.shown.seek(0)
        self.shown.truncate()
        return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, terminal=False)


BAR = "25% {}: 0/2 shards · 1,500 tokens/s · 27 s to go · 1 restart · 3 rejected"


def test_without_a_terminal_there_is_a_line_a_minute(run: Run) -> None:
    run.screen.start_job(1, "Embedding 2-of-2", run.log("embed_shard/2-of-2", "INFO hello"))
    run.now += SECONDS_BETWEEN_LINES - 1
    run.screen.look()
    assert run.take() == []
    run.now += 1
    run.screen.look()
    run.screen.look()
    assert run.take() == [BAR.format("Embedding")]


def test_a_terminal_has_a_bar_that_goes_away(tmp_path: Path) -> None:
    run = Run(tmp_path, terminal=True)
    run.screen.start_job(1, "Embedding 2-of-2", run.log("embed_shard/2-of-2"))
    run.screen.look()
    (bar,) = run.take()
    assert re.fullmatch(r"Embedding \S+ +25% +0/2 shards · 1,500 tokens/s · .*", bar)
    assert run.screen.live
    run.screen.finish_job(1)
    run.screen.look()
    assert run.screen.live is None


def test_datasets_of_other_runs_do_not_count(run: Run) -> None:
    run.screen.start_job(1, "Splitting old", run.log("split_fasta", dataset="old"))
    run.now += SECONDS_BETWEEN_LINES
    run.screen.look()
    assert run.take() == ["100% Splitting: 1/1 shards"]


def test_warnings_are_shown_once_whoever_says_them(run: Run) -> None:
    first = run.log("embed_shard/1-of-2", "INFO no", "WARNING random [bold] weights", "ERROR no")
    run.screen.start_job(1, "one", first)
    second = run.log("embed_shard/2-of-2", "WARNING random [bold] weights", "WARNING other")
    run.screen.start_job(2, "two", second)
    run.screen.look()
    run.screen.look()
    assert run.take() == ["random [bold] weights", "other"]
    run.log("embed_shard/2-of-2", "WARNING random [bold] weights", "WARNING other", "WARNING last")
    run.screen.finish_job(2)
    assert run.take() == ["last"]


def test_the_log_of_another_attempt_is_read_from_its_beginning(run: Run) -> None:
    log = run.log("embed_shard/1-of-2", "INFO a", "INFO b", "WARNING before")
    run.screen.start_job(1, "one", log)
    run.screen.look()
    run.log("embed_shard/1-of-2", "WARNING after")
    run.screen.look()
    assert run.take() == ["before", "after"]


def test_a_job_that_fails_is_named_with_its_last_error(run: Run) -> None:
    log = run.log("embed_shard/2-of-2", "ERROR no", "WARNING careful", "ERROR the disk is full")
    run.screen.start_job(1, "two", log)
    run.screen.fail_job(1)
    assert run.take() == ["careful", "embed_shard, shard 2-of-2 of d failed: the disk is full"]


def test_a_job_that_was_asked_to_stop_has_not_failed(run: Run) -> None:
    said = "stopped by SIGINT; the same command goes on from here"
    run.screen.start_job(1, "two", run.log("embed_shard/2-of-2", "INFO works", f"WARNING {said}"))
    run.screen.fail_job(1)
    assert run.take() == [said]
    assert explain_failures(0, run.results) == "spotESM was " + said.replace(" by SIGINT", "")
    run.log("embed_shard/1-of-2", "ERROR the disk is full")
    assert "was stopped" not in explain_failures(0, run.results)


def test_a_failure_that_comes_again_is_said_once(run: Run) -> None:
    for why in ("the input is wrong", "the input is wrong", "the disk is full"):
        run.screen.start_job(1, "two", run.log("split_fasta", f"ERROR {why}"))
        run.screen.fail_job(1)
    assert run.take() == [
        "split_fasta of d failed: the input is wrong",
        "split_fasta of d failed: the disk is full",
    ]


def test_a_job_that_was_killed_is_named(run: Run) -> None:
    run.screen.start_job(1, "two", run.log("embed_shard/2-of-2", "INFO works"))
    run.screen.fail_job(1)
    assert run.take() == [
        "embed_shard, shard 2-of-2 of d failed: its process was ended from outside"
    ]


def test_a_job_that_never_began_was_not_ended_from_outside(run: Run) -> None:
    """Such as one whose libraries cannot be imported: Python printed a trace, and it has no log."""
    run.screen.start_job(1, "two", run.results / "d/logs/embed_shard/2-of-2.log")
    run.screen.fail_job(1)
    assert run.take() == [
        "embed_shard, shard 2-of-2 of d failed: it ended before it began; what it printed says why"
    ]


def test_a_job_for_the_whole_run_is_a_line(run: Run) -> None:
    log = run.results / "logs/fetch_weights.log"
    run.screen.start_job(1, "Getting weights", log)
    run.screen.start_job(2, "Getting weights", log)
    run.now += SECONDS_BETWEEN_LINES
    run.screen.look()
    assert run.take() == ["Getting weights"]


def test_the_last_words_follow_when_the_bar_is_gone(tmp_path: Path) -> None:
    run = Run(tmp_path, terminal=True)
    run.screen.start_job(1, "Reporting", run.log("report_dataset"))
    run.screen.look()
    run.take()
    run.screen.end("results/d/embeddings.h5: 5 rows")
    assert run.screen.live is None
    assert run.take()[-1] == "results/d/embeddings.h5: 5 rows"
