"""What happened to the shards of a dataset: their attempts, from journals and speed records."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from spotesm.base.journal import Journal
from spotesm.base.paths import in_shard_order
from spotesm.embed.progress import SPEED_FILE_NAME

ENDS = ("stopped", "failed", "completed")


@dataclass(frozen=True)
class PastAttempt:
    """One attempt at a shard.

    Attributes:
        number: from 1, since the shard was last completed.
        start, end: seconds since 1970; of a killed one, the last time it told of itself.
        outcome: `completed`, `stopped`, `failed: TYPE`, or `killed`.
        computed: sequences it embedded, as far as it could tell.
        speeds: start, end and tokens of stretches of its work.
    """

    shard: str
    number: int
    host: str
    device: str
    start: float
    end: float
    outcome: str
    computed: int
    speeds: list[tuple[float, float, int]]

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.end - self.start


def read_history(checkpoints: Path) -> list[PastAttempt]:
    """Return all attempts at all shards, by shard and time."""
    folders = in_shard_order(checkpoints.glob("*-of-*"))
    return [attempt for folder in folders for attempt in _read_attempts(folder)]


def _read_attempts(folder: Path) -> Iterator[PastAttempt]:
    speeds = list(_read_speeds(folder))
    events = [event for event in Journal(folder / "journal.jsonl").read() if _is_dated(event)]
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    for place, following in pairwise([*starts, len(events)]):
        begin = events[place]
        start = _seconds(begin["time"])
        later = _seconds(events[following]["time"]) if following < len(events) else float("inf")
        own = [speed for speed in speeds if start <= speed[0] < later]
        ends = [event for event in events[place:following] if event["event"] in ENDS]
        outcome, end, computed = "killed", max([start, *(speed[1] for speed in own)]), 0
        if ends:
            outcome, end = ends[-1]["event"], _seconds(ends[-1]["time"])
            computed = _count(ends[-1].get("computed"), 0)
            if outcome == "failed":
                outcome = f"failed: {ends[-1].get('type')}"
        yield PastAttempt(
            shard=folder.name,
            number=_count(begin.get("attempt"), place + 1),
            host=str(begin.get("host", "")),
            device=str(begin.get("device", "")),
            start=start,
            end=end,
            outcome=outcome,
            computed=computed,
            speeds=own,
        )


def _read_speeds(folder: Path) -> Iterator[tuple[float, float, int]]:
    with suppress(FileNotFoundError), open(folder / SPEED_FILE_NAME, "rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, OverflowError):  # cut short by a crash, or foreign
                start, end, tokens = json.loads(line)
                yield float(start), float(end), int(tokens)


def _count(value: object, otherwise: int) -> int:
    """Return a number of a line, which may be damaged."""
    return value if isinstance(value, int) else otherwise


def _is_dated(event: dict) -> bool:
    """Whether an event says when it was, as ours do."""
    try:
        return bool(_seconds(event["time"]))
    except (KeyError, TypeError, ValueError):
        return False


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
