"""How far a run is, read from nothing but the files that its jobs leave."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path

from spotesm.base.journal import Journal
from spotesm.base.paths import RESULTS, DatasetPaths, shard_file
from spotesm.base.text import duration
from spotesm.embed.progress import FILE_NAME, Snapshot
from spotesm.hdf5.format import open_hdf5
from spotesm.runs.asked import Asked
from spotesm.runs.identity import is_finished, is_shard_of

# A running job tells of itself every few seconds, or after each batch where one lasts longer.
SILENT_AFTER_SECONDS = 120.0


@dataclass(frozen=True)
class ShardStatus:
    """What is known of one shard.

    Attributes:
        state: `waiting`, `running`, `silent` (should be running, but has not been heard of for
            two minutes: killed, or its node is gone), `preempted`, `failed` or `done`.
        detail: the type of a failure, or where it runs.
        share: of its cost that is done, 0 to 1; None where nothing is known yet.
        tokens_per_second, seconds_to_go: of a running attempt.
        restarts: attempts after the first.
        rejected: sequences that the attempt in hand rejected, or records of a shard that is done.
        reused: sequences that earlier runs had computed.
    """

    dataset: str
    shard: str
    state: str
    detail: str = ""
    share: float | None = None
    tokens_per_second: float | None = None
    seconds_to_go: float | None = None
    restarts: int = 0
    rejected: int = 0
    reused: int = 0


@dataclass(frozen=True)
class Total:
    """How far several shards are together.

    Attributes:
        shards, done: how many there are, and how many of them are done.
        share: of all their cost that is done, 0 to 1; shards cost about the same.
        tokens_per_second: of those that run.
        seconds_to_go: at the pace of those that run; None if that is unknown.
        restarts, rejected, reused: summed.
    """

    shards: int
    done: int
    share: float
    tokens_per_second: float
    seconds_to_go: float | None
    restarts: int
    rejected: int
    reused: int

    @classmethod
    def of(cls, shards: Sequence[ShardStatus]) -> "Total":
        """Add up."""
        running = [shard for shard in shards if shard.seconds_to_go is not None]
        work_to_go = sum(1 - (shard.share or 0) for shard in shards)
        pace = sum((1 - (shard.share or 0)) / max(shard.seconds_to_go, 1e-9) for shard in running)
        return cls(
            shards=len(shards),
            done=sum(shard.state == "done" for shard in shards),
            share=sum(shard.share or 0 for shard in shards) / max(len(shards), 1),
            tokens_per_second=sum(shard.tokens_per_second or 0 for shard in shards),
            seconds_to_go=work_to_go / pace if pace else None,
            restarts=sum(shard.restarts for shard in shards),
            rejected=sum(shard.rejected for shard in shards),
            reused=sum(shard.reused for shard in shards),
        )


def read_run(results: Path = RESULTS) -> list[ShardStatus]:
    """Return the state of every shard of every dataset, in order."""
    shards = []
    for paths in DatasetPaths.of_all(results):
        asked, finished = Asked.read(paths.asked), is_finished(paths)
        for fasta in paths.shards:
            output, checkpoints = shard_file(fasta), paths.checkpoints / fasta.stem
            shard = read_shard(paths.name, fasta.stem, output, checkpoints, asked)
            # Its file goes when it is merged.
            shards.append(replace(shard, state="done", detail="", share=1.0) if finished else shard)
    return shards


def read_shard(
    dataset: str, shard: str, output: Path, checkpoints: Path, asked: Asked | None = None
) -> ShardStatus:
    """Return the state of one shard, from its output, its journal and its progress.

    Args:
        asked: what its output has to be of, if that is known.
    """
    events = read_events(checkpoints)
    restarts = max(0, count_last_starts(events) - 1)
    if output.exists() and (asked is None or is_shard_of(output, asked)):
        rejected, reused = count_in(output)
        return ShardStatus(
            *(dataset, shard, "done"),
            share=1.0,
            restarts=restarts,
            rejected=rejected,
            reused=reused,
        )
    if not events:
        return ShardStatus(dataset, shard, "waiting")
    now = read_progress(checkpoints)
    share = now.tokens_done / max(now.tokens, 1) if now else None
    rejected = now.rejected if now else 0
    reused = now.reused if now else 0
    known = {"share": share, "restarts": restarts, "rejected": rejected, "reused": reused}
    last = events[-1]
    host = str(last.get("host", ""))
    match last["event"]:
        case "stopped":
            return ShardStatus(dataset, shard, "preempted", host, **known)
        case "failed":
            return ShardStatus(dataset, shard, "failed", str(last.get("type", "")), **known)
        case "completed":  # its file is gone, and its parts with it
            return ShardStatus(dataset, shard, "waiting", **{**known, "share": None})
    if not now or now.pid != last.get("pid"):  # it still loads the model
        return ShardStatus(dataset, shard, "running", host, **known)
    silence = time.time() - now.time
    if silence > SILENT_AFTER_SECONDS:
        detail = f"{host}, for {duration(silence)}"
        return ShardStatus(dataset, shard, "silent", detail, **known)
    return ShardStatus(
        dataset,
        shard,
        "running",
        f"{now.host}, {now.device}",
        tokens_per_second=now.tokens_per_second,
        seconds_to_go=now.seconds_to_go,
        **known,
    )


def read_events(checkpoints: Path) -> list[dict]:
    """Return what the journal of a shard has; nothing if it cannot be read."""
    try:
        return Journal(checkpoints / "journal.jsonl").read()
    except OSError:
        return []


def count_last_starts(events: Sequence[dict]) -> int:
    """Count the attempts at the work in hand, or at the one that was completed last."""
    starts = 0
    for place, event in enumerate(events):
        if event["event"] == "start":
            starts = starts + 1 if place and events[place - 1]["event"] != "completed" else 1
    return starts


def read_progress(checkpoints: Path) -> Snapshot | None:
    """Return what the latest attempt told of itself, if it did."""
    try:
        told = json.loads((checkpoints / FILE_NAME).read_bytes())
        now = Snapshot(**{field.name: told[field.name] for field in fields(Snapshot)})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (
        now if all(_fits(getattr(now, field.name), field.type) for field in fields(now)) else None
    )


def _fits(value: object, kind: type) -> bool:
    """Whether a value of a file, perhaps of another version, is of a field's type."""
    return isinstance(value, kind | int) and not (isinstance(value, float) and not isfinite(value))


def count_in(output: Path) -> tuple[int, int]:
    """Return how many records of a finished shard were rejected, and sequences reused."""
    try:
        with open_hdf5(output) as file:
            rejected = len(file["records/ordinals"]) - int(file.attrs["n_embedded"])
            return rejected, int(file.attrs.get("n_reused", 0))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError):  # being written, or foreign
        return 0, 0
