"""A part of which one thing is changed, and the resume that meets it.

Each key, each tensor, and the first, a middle and the last value are changed in turn.
"""

from pathlib import Path

import pytest
import torch
from damage import changes_of
from shards import parts_of
from spotesm.base.durable import read_json
from spotesm.embed.task import ShardJob
from spotesm.shards.checkpoints import open_checkpoints
from spotesm.shards.parts import digest_file
from tiny_shard import RECORDS, N, job_beside, lay_out_parts, resume, sequences_in, values_of

A_VALUE = "a value; the name carries the digest of all bytes, so only a writer can have changed it"
DIGITS = "more digits than are stored; they are cast as they are written"
ANEW = "what is missing is computed anew"
HARMLESS_UNDER_ITS_NAME = {
    **{("batch", "gone"): ANEW, ("rows", "gone"): ANEW},
    **{("ragged", "gone"): ANEW, ("reasons", "changed"): A_VALUE},
    **{(kind, "changed"): A_VALUE for kind in ("digests", "windows", "rows", "ragged")},
    **{(kind, "other numbers"): DIGITS for kind in ("rows", "ragged")},
}


@pytest.fixture
def broken(whole: ShardJob, tmp_path: Path) -> ShardJob:
    """The same with its parts alone: as if it had been killed before its file was whole."""
    job = job_beside(whole, tmp_path, RECORDS)
    lay_out_parts(whole, job)
    return job


def count_in_parts(job: ShardJob, settings: dict) -> int:
    with open_checkpoints(job.checkpoints, settings, job.thresholds) as opened:
        return sum(len(results.digests) for results in opened.read_parts())


def test_whole_parts_leave_nothing_to_compute(whole: ShardJob, broken: ShardJob) -> None:
    assert resume(broken) == 0
    assert values_of(broken) == values_of(whole)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_changed_part_is_set_aside_and_computed_anew(
    whole: ShardJob, broken: ShardJob, which: int
) -> None:
    """All changes are noticed; of each kind, one is taken up by a job."""
    name = parts_of(broken)[which].name
    content = torch.load(broken.checkpoints / name, weights_only=True)
    settings = read_json(broken.checkpoints / "fingerprint.json")
    others = N - sequences_in(broken.checkpoints / name)
    to_compute = sequences_in(broken.checkpoints / name, but_rejected=True)
    met: set[str] = set()
    for where, how, changed in changes_of(content):
        torch.save(changed, broken.checkpoints / name)
        if how not in met:
            met.add(how)
            assert resume(broken) == to_compute, (where, how)
            assert values_of(broken) == values_of(whole)
            assert (broken.checkpoints / "set-aside" / name).exists(), (where, how)
            lay_out_parts(whole, broken)
        else:
            assert count_in_parts(broken, settings) == others, (where, how)
            (broken.checkpoints / "set-aside" / name).unlink()
    assert len(met) > 5


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_truncated_part_is_set_aside_and_computed_anew(
    whole: ShardJob, broken: ShardJob, which: int
) -> None:
    """At every 4 KiB, and a byte before the end."""
    name = parts_of(broken)[which].name
    content = (broken.checkpoints / name).read_bytes()
    n = sequences_in(broken.checkpoints / name, but_rejected=True)
    for size in [*range(0, len(content), 4096), len(content) - 1]:
        lay_out_parts(whole, broken)
        (broken.checkpoints / name).write_bytes(content[:size])
        assert resume(broken) == n
        assert (broken.checkpoints / "set-aside" / name).exists()
        assert values_of(broken) == values_of(whole)


def test_what_another_writer_made_otherwise_is_set_aside(broken: ShardJob) -> None:
    """Its name carries the digest of its bytes, but its form is another."""
    part = parts_of(broken)[1]
    content = torch.load(part, weights_only=True)
    n = sequences_in(part)
    part.unlink()
    settings = read_json(broken.checkpoints / "fingerprint.json")
    for where, how, changed in changes_of(content):
        torch.save(changed, broken.checkpoints / "new")
        name = f"part-00002.{digest_file(broken.checkpoints / 'new')}.pt"
        (broken.checkpoints / "new").rename(broken.checkpoints / name)
        found = count_in_parts(broken, settings)
        if (broken.checkpoints / "set-aside" / name).exists():
            assert found == N - n, (where, how)
        else:
            kind = where.split(".")[2] if where.count(".") > 1 else "batch"
            how = "changed" if how.startswith("[") else how
            assert (kind, how) in HARMLESS_UNDER_ITS_NAME, (where, how)
            (broken.checkpoints / name).unlink()
