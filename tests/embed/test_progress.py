"""How far a job says it is, within a batch, too."""

import json
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from shards import make_job, run, running, stop, wait_until
from spotesm.embed import progress as progress_module
from spotesm.embed.progress import SPEED_FILE_NAME, Progress, Snapshot
from spotesm.request.results import rejected
from spotesm.runs.state import read_progress
from spotesm.sequences.reasons import TOO_LONG, Reason


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return make_progress(tmp_path)


def make_progress(tmp_path: Path) -> Progress:
    """Three sequences of 10, 20 and 30 tokens, the first of which is done."""
    task = SimpleNamespace(
        shard=SimpleNamespace(lengths=np.array([8, 18, 28])),
        tokens=np.array([10, 20, 30]),
        device="cpu",
        job=SimpleNamespace(checkpoints=tmp_path),
    )
    return Progress(task, np.array([True, False, False]), reused=0, attempt=1)


def test_tokens_count_before_their_batch_is_done(progress: Progress) -> None:
    told = []
    for step in (
        lambda: progress.advance_within(7),
        lambda: progress.advance_within(8),
        lambda: advance(progress, 2),
        lambda: progress.advance_within(500),  # run again and again
        lambda: advance(progress, 1),
    ):
        step()
        now = progress.snapshot()
        told.append((now.tokens_done, now.sequences_done))
    assert told == [(17, 1), (25, 1), (40, 2), (60, 2), (60, 3)]


def test_speed_and_time_to_go_are_of_what_this_attempt_did(progress: Progress) -> None:
    progress.clock_started -= 10
    progress.advance_within(5)  # of 50 that were to be done
    now = progress.snapshot()
    assert now.tokens_per_second == pytest.approx(0.5, rel=0.1)
    assert now.seconds_to_go == pytest.approx(90, rel=0.1)
    assert (now.tokens, now.tokens_done) == (60, 15)


def advance(progress: Progress, index: int) -> None:
    results = rejected(np.zeros(1, dtype="V16"), Reason(TOO_LONG, ""))
    progress.advance(np.array([index]), results)


def test_what_is_given_up_does_not_count_in_the_end(progress: Progress, tmp_path: Path) -> None:
    progress.advance_within(15)
    progress.write()
    assert read_progress(tmp_path).tokens_done == 25
    progress.end()
    assert read_progress(tmp_path).tokens_done == 10
    stretches = [json.loads(line) for line in (tmp_path / SPEED_FILE_NAME).open()]
    assert [tokens for _, _, tokens in stretches] == [15]


def test_files_and_lines_are_written_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file at most every two seconds, a line every ten, however fast batches come."""
    clock = [100.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(**vars(time)))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    caplog.set_level("INFO")
    counted = make_progress(tmp_path)
    told: list[tuple[int, int]] = []
    for clock[0] in (100.5, 101.9, 102.0, 103.9, 104.0, 109.9, 110.0, 119.9, 120.0):
        counted.advance_within(1)
        lines = sum(" tokens/s, " in message for message in caplog.messages)
        told.append((read_progress(tmp_path).tokens_done, lines))
    assert [tokens - 10 for tokens, _ in told] == [0, 0, 3, 3, 5, 6, 6, 8, 8]
    assert [lines for _, lines in told] == [0, 0, 0, 0, 0, 0, 1, 1, 2]


def test_a_protein_of_many_windows_tells_of_itself(tmp_path: Path, weights_manifest: Path) -> None:
    sequence = random_sequence(random.Random(3), 1600)
    fasta = write_fasta(tmp_path / "in.fasta", [("giant", sequence)])
    job = make_job(tmp_path, fasta, weights_manifest, tokens_per_batch=84)  # two windows a pass
    brake = tmp_path / "brake"
    brake.write_text("1")
    seen: list[Snapshot] = []

    def half_way() -> bool:
        now = read_progress(job.checkpoints)
        if now and now.tokens_done:
            seen.append(now)
        return bool(seen)

    with running(job, faults=f"brake={brake}") as process:
        assert wait_until(half_way, process)
        code = stop(process, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    (now,) = seen
    assert 0 < now.tokens_done < now.tokens
    assert now.sequences_done == 0
    assert now.tokens_per_second > 0
    brake.unlink()
    assert run(job) == 0
    assert read_progress(job.checkpoints).tokens_done == now.tokens
