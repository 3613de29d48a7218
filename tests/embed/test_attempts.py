"""What an attempt leaves in the journal, and what the next one learns from it.

Each sequence of the shard is the one to blame in turn: the first, one in the middle, the last.
"""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shards import make_shard
from spotesm.embed import attempts
from spotesm.embed.attempts import Attempt, journal_attempt
from spotesm.machine.preemption import Preempted
from spotesm.sequences.digests import as_hex
from spotesm.sequences.reasons import Device
from spotesm.sequences.sharding import Shard
from spotesm.shards.checkpoints import Thresholds, open_checkpoints

N = 9
PLACES = (0, 4, N - 1)
CPU = torch.device("cpu")
SMALL, LARGE = (Device("T4", gib << 30, "float16") for gib in (16, 32))
NEVER = Thresholds(sequences=1 << 40, seconds=1e9, bytes=1 << 60)
CUDA_FAILED = torch.AcceleratorError("CUDA error: device-side assert")


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path, N, seed=21)


def attempt(
    folder: Path,
    shard: Shard,
    batch: list[int],
    error: BaseException | None,
    restart: str = "",
    device: Device = SMALL,
) -> Attempt:
    """One attempt, which ends by `error` with a batch in flight."""
    with open_checkpoints(folder / "parts", {}, NEVER) as checkpoints:
        try:
            with journal_attempt(checkpoints, shard, CPU, device, restart) as made:
                list(made.launching([np.array(batch, np.int64)]) if batch else [])
                if error is not None:
                    raise error
        except type(error):
            pass
        return made


def learned(folder: Path, shard: Shard, device: Device = SMALL) -> tuple[list[int], list[int]]:
    """What the next attempt would run one by one, and what it would reject."""
    made = attempt(folder, shard, [], Preempted(15), device=device)
    return made.suspects.tolist(), made.condemned.tolist()


@pytest.mark.parametrize("place", PLACES)
def test_a_sequence_that_kills_twice_is_condemned(tmp_path: Path, shard: Shard, place: int) -> None:
    batch = sorted({place, (place + 1) % N, (place + 5) % N})
    assert learned(tmp_path, shard) == ([], [])
    attempt(tmp_path, shard, batch, CUDA_FAILED)
    assert learned(tmp_path, shard) == (batch, [])
    attempt(tmp_path, shard, [place], CUDA_FAILED)
    others = [i for i in batch if i != place]
    assert learned(tmp_path, shard) == (others, [place])


@pytest.mark.parametrize("place", PLACES)
def test_one_kill_condemns_nobody(tmp_path: Path, shard: Shard, place: int) -> None:
    attempt(tmp_path, shard, [place], CUDA_FAILED)
    assert learned(tmp_path, shard) == ([place], [])
    attempt(tmp_path, shard, list(range(N)), CUDA_FAILED)
    assert learned(tmp_path, shard) == ([i for i in range(N) if i != place], [place])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "other", [LARGE, replace(SMALL, name="L4"), replace(SMALL, precision="bfloat16")]
)
def test_what_killed_one_device_is_a_suspect_on_another(
    tmp_path: Path, shard: Shard, place: int, other: Device
) -> None:
    for _ in range(2):
        attempt(tmp_path, shard, [place], CUDA_FAILED)
    assert learned(tmp_path, shard, other) == ([place], [])
    attempt(tmp_path, shard, [place], CUDA_FAILED, device=other)
    assert learned(tmp_path, shard, other) == ([place], [])
    attempt(tmp_path, shard, [place], CUDA_FAILED, device=other)
    assert learned(tmp_path, shard, other) == ([], [place])
    assert learned(tmp_path, shard) == ([], [place])


RUBBISH = (
    "[]",
    "7",
    "[" * 100_000,
    '{"event": "start"}',
    '{"event": "failed", "type": "cuda_runtime"}',
    '{"event": "failed", "attempt": 1, "time": "", "host": "", "type": "cuda_runtime", '
    '"message": "", "hardware": {}, "digests": ["xyz"]}',
    '{"event": "failed", "attempt": 1, "time": "", "host": "", "type": "cuda_runtime", '
    '"message": "", "hardware": {}, "digests": {"a": 1}}',
)


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_damaged_line_is_named_and_left_out(
    tmp_path: Path, shard: Shard, rubbish: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        attempt(tmp_path, shard, [3], CUDA_FAILED)
    journal = tmp_path / "parts/journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:place], rubbish, *lines[place:], ""]))
    assert learned(tmp_path, shard) == ([], [3])
    assert f"{journal}: 1 damaged line; what happened then is not known" in caplog.messages


@pytest.mark.parametrize("place", PLACES)
def test_two_kills_in_company_condemn_nobody(tmp_path: Path, shard: Shard, place: int) -> None:
    batch = sorted({place, (place + 1) % N})
    for _ in range(2):
        attempt(tmp_path, shard, batch, CUDA_FAILED)
    assert learned(tmp_path, shard) == (batch, [])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "error", [ValueError("x"), torch.OutOfMemoryError("CUDA out of memory."), Preempted(15)]
)
def test_other_ends_make_no_suspects(
    tmp_path: Path, shard: Shard, place: int, error: BaseException
) -> None:
    for _ in range(3):
        attempt(tmp_path, shard, [place], error)
    assert learned(tmp_path, shard) == ([], [])


def test_a_completed_attempt_clears_everybody(tmp_path: Path, shard: Shard) -> None:
    for _ in range(2):
        attempt(tmp_path, shard, [0], CUDA_FAILED)
    assert learned(tmp_path, shard) == ([], [0])
    attempt(tmp_path, shard, [], None)
    assert learned(tmp_path, shard) == ([], [])


@pytest.mark.parametrize("place", PLACES)
def test_sequences_that_are_no_longer_there_are_forgotten(
    tmp_path: Path, shard: Shard, place: int
) -> None:
    attempt(tmp_path, shard, list(range(N)), CUDA_FAILED)
    lines = (tmp_path / "s.fasta").read_text().splitlines()
    del lines[2 * place : 2 * place + 2]
    (tmp_path / "s.fasta").write_text("\n".join([*lines, ""]))
    shorter = Shard.index(tmp_path / "s.fasta")
    assert learned(tmp_path, shorter) == (list(range(N - 1)), [])


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_names_the_batches_in_flight(tmp_path: Path, shard: Shard, place: int) -> None:
    """Those that have landed are not to blame."""
    batches = [np.array([(place + 1) % N]), np.array([place]), np.array([(place + 2) % N])]
    with open_checkpoints(tmp_path / "parts", {}, NEVER) as checkpoints:
        with pytest.raises(ValueError), journal_attempt(checkpoints, shard, CPU, SMALL, "") as made:
            list(made.launching(batches))
            made.landed()
            raise ValueError("x")
        failed = checkpoints.journal.read()[-1]
    flying = [place, (place + 2) % N]
    assert failed["digests"] == as_hex(shard.digests[flying])
    assert failed["ids"] == [f"p{shard.ordinals[shard.sequence_of_record == i][0]}" for i in flying]
    assert (failed["type"], failed["computed"], failed["attempt"]) == ("generic", 1, 1)
    assert (failed["message"], failed["device"]) == ("ValueError: x", "cpu")


def test_attempts_are_numbered_since_the_last_completed(tmp_path: Path, shard: Shard) -> None:
    ends = [Preempted(15), ValueError("x"), None, ValueError("x"), None]
    assert [attempt(tmp_path, shard, [], end).number for end in ends] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("computed", [0, 1, 5])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_only_who_made_progress_is_run_again_after_sigterm(
    tmp_path: Path,
    shard: Shard,
    computed: int,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a requeue could go on for ever; the first attempt and its first batch count, too."""
    asked: list[bool] = []
    monkeypatch.setattr(attempts, "requeue_this_job", lambda: asked.append(True))
    with open_checkpoints(tmp_path / "parts", {}, NEVER) as checkpoints:
        with (
            pytest.raises(Preempted),
            journal_attempt(checkpoints, shard, CPU, SMALL, "") as made,
        ):
            for i in made.launching([np.array([i]) for i in range(computed)]):
                assert len(i) == 1
                made.landed()
            raise Preempted(number)
        stopped = checkpoints.journal.read()[-1]
    assert asked == [True] * (computed > 0 and number == signal.SIGTERM)
    assert (stopped["event"], stopped["computed"]) == ("stopped", computed)


@pytest.mark.parametrize("restart", ["", "a"])
def test_a_forced_restart_ignores_what_was_there_once(
    tmp_path: Path, shard: Shard, restart: str
) -> None:
    bound = tmp_path / "parts" / "plan.json"
    for again in range(3):
        with open_checkpoints(tmp_path / "parts", {}, NEVER) as checkpoints:
            checkpoints.fix_token_budget(0, lambda: 7)
        attempt(tmp_path, shard, [], Preempted(15), restart)
        assert bound.exists() == (not restart or again > 0)
