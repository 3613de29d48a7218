"""What the journal tells the next attempt."""

from pathlib import Path

import pytest
from spotesm.base.journal import Journal


@pytest.mark.parametrize(
    ("events", "in_hand"),
    [
        ("", ""),
        ("start stopped start", "start stopped start"),
        ("completed", ""),
        ("start completed start failed", "start failed"),
        ("start completed start completed start failed start", "start failed start"),
        ("start completed start completed", ""),
    ],
)
def test_only_what_follows_the_last_completion_is_work_in_hand(
    tmp_path: Path, events: str, in_hand: str
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for event in events.split():
        journal.record(event)
    assert [entry["event"] for entry in journal.read_since_completed()] == in_hand.split()
