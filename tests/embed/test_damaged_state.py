"""A shard's small files, damaged: each is set aside with a line, and nothing finished is lost."""

import json
from pathlib import Path

import pytest
from shards import parts_of
from spotesm.base.durable import read_json
from spotesm.embed.task import ShardJob
from spotesm.shards.checkpoints import Thresholds, open_checkpoints
from spotesm.shards.shard_file import finished_paths
from tiny_shard import RECORDS, job_beside, lay_out_parts, resume, sequences_in, values_of

NEVER = Thresholds(1 << 40, 1e9, 1 << 60)
ANYTHING = {
    "empty": b"",
    "cut short": b'{"requested": 0, "tok',
    "binary": b"\xff\xfe\x00" * 40,
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "nested": b"[" * 200_000,
    "no keys": b"{}",
}
OF_A_PLAN = {
    "a key is missing": b'{"requested": 20}',
    "of another type": b'{"requested": 20, "tokens_per_batch": "20"}',
    "a truth value": b'{"requested": 20, "tokens_per_batch": true}',
    "nothing fits": b'{"requested": 20, "tokens_per_batch": 0}',
    "less than nothing": b'{"requested": 20, "tokens_per_batch": -5}',
}


@pytest.fixture
def broken(whole: ShardJob, tmp_path: Path) -> ShardJob:
    """The same with its parts alone: as if it had been killed before its file was whole."""
    job = job_beside(whole, tmp_path, RECORDS)
    lay_out_parts(whole, job)
    return job


def line_on(path: Path, log: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in log.messages if text.startswith(f"{path} is damaged; set aside: ")]


@pytest.mark.parametrize("rubbish", [*ANYTHING.values(), *OF_A_PLAN.values()])
def test_a_damaged_plan(
    whole: ShardJob, broken: ShardJob, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    missing = parts_of(broken)[1]
    to_compute = sequences_in(missing, but_rejected=True)
    missing.unlink()
    plan = broken.checkpoints / "plan.json"
    plan.write_bytes(rubbish)
    assert resume(broken) == to_compute
    assert values_of(broken) == values_of(whole)
    assert len(line_on(plan, caplog)) == 1


@pytest.mark.parametrize("place", [0, 5, -1])
@pytest.mark.parametrize("change", [None, 7, {}, "gone"])
def test_a_fingerprint_that_lacks_a_key_or_has_another_type(
    whole: ShardJob, broken: ShardJob, place: int, change: object
) -> None:
    bound = broken.checkpoints / "fingerprint.json"
    settings = read_json(bound)
    key = [name for name in settings if name != "regression_sha256"][place]
    damaged = {**settings, key: 1.5 if change == 7 and settings[key] == 2 else change}
    if change == "gone":
        del damaged[key]
    if change == {} and isinstance(settings[key], dict):
        damaged[key] = {"policy": "reject"}
    bound.write_text(json.dumps(damaged))
    assert resume(broken) == 0
    assert values_of(broken) == values_of(whole)
    assert read_json(bound) == settings


@pytest.mark.parametrize("rubbish", ANYTHING.values())
@pytest.mark.parametrize("left", ["parts", "finished", "both"])
def test_a_damaged_fingerprint(
    whole: ShardJob,
    broken: ShardJob,
    rubbish: bytes,
    left: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Parts and finished files say themselves what they are of."""
    if left != "parts":
        (finished,) = finished_paths(whole.checkpoints)
        (broken.checkpoints / finished.name).write_bytes(finished.read_bytes())
    for part in parts_of(broken) if left == "finished" else ():
        part.unlink()
    bound = broken.checkpoints / "fingerprint.json"
    settings = read_json(bound)
    bound.write_bytes(rubbish)
    assert resume(broken) == 0
    assert values_of(broken) == values_of(whole)
    assert len(line_on(bound, caplog)) == 1
    assert read_json(bound) == settings


@pytest.mark.parametrize("rubbish", [b"[]", b'{"requested": 1}'])
def test_under_a_damaged_fingerprint_other_settings_never_mix(
    whole: ShardJob, broken: ShardJob, rubbish: bytes
) -> None:
    settings = read_json(broken.checkpoints / "fingerprint.json")
    (finished,) = finished_paths(whole.checkpoints)
    for change in ({"precision": "bfloat16"}, {"weights_sha256": "0"}, {"layers": [0]}):
        lay_out_parts(whole, broken)
        (broken.checkpoints / finished.name).write_bytes(finished.read_bytes())
        (broken.checkpoints / "fingerprint.json").write_bytes(rubbish)
        changed = {**settings, **change}
        with open_checkpoints(broken.checkpoints, changed, NEVER) as checkpoints:
            assert list(checkpoints.read_parts()) == []
            assert json.loads((broken.checkpoints / "fingerprint.json").read_text()) == changed
