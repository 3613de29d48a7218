"""How far a run is: a table over datasets and shards, while jobs work or afterwards.

    make status              once
    make status WATCH=1      again and again

Reads nothing but files, so it works on any machine that sees the folder of the run.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spotesm.base.journal import Journal
from spotesm.embed.progress import FILE_NAME, Snapshot

SECONDS_BETWEEN_TABLES = 2.0
# A running job tells of itself every few seconds, or after each batch where one lasts longer.
SILENT_AFTER_SECONDS = 120.0
STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "silent": "yellow",
    "preempted": "yellow",
    "failed": "red",
    "done": "green",
}


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="spotesm.commands.status", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--checkpoints", type=Path, help="what the config names as checkpoint: dir")
    parser.add_argument("--watch", action="store_true", help="until Ctrl-C")
    chosen = parser.parse_args(arguments)
    console = Console()
    if not chosen.watch:
        show(console, read_run(chosen.results, chosen.checkpoints))
        return
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(make_table(read_run(chosen.results, chosen.checkpoints)), refresh=True)
            time.sleep(SECONDS_BETWEEN_TABLES)


def show(console: Console, shards: Sequence[ShardStatus]) -> None:
    """Print a table, or lines of tab-separated text where no terminal is."""
    if not shards:
        sys.exit("no run here: no shards below results/; is this the folder of the run?")
    if console.is_terminal:
        console.print(make_table(shards))
        return
    for row in [HEADER, *map(cells, shards), *map(totals, by_dataset(shards))]:
        print("\t".join(row))


# -- reading ---------------------------------------------------------------------------------------


def read_run(results: Path, checkpoints: Path | None = None) -> list[ShardStatus]:
    """Return the state of every shard of every dataset, in order."""
    shards = []
    for fasta in results.glob("*/shards/*-of-*.fasta"):
        dataset, shard = fasta.parents[1].name, fasta.stem
        root = checkpoints / dataset if checkpoints else fasta.parents[1] / "checkpoints"
        shards.append(read_shard(dataset, shard, fasta.with_suffix(".h5"), root / shard))
    return sorted(shards, key=lambda s: (s.dataset, int(s.shard.partition("-of-")[0])))


def read_shard(dataset: str, shard: str, output: Path, checkpoints: Path) -> ShardStatus:
    """Return the state of one shard, from its output, its journal and its progress."""
    events = Journal(checkpoints / "journal.jsonl").read()
    restarts = max(0, count_last_starts(events) - 1)
    if output.exists():
        return ShardStatus(
            dataset, shard, "done", share=1.0, restarts=restarts, rejected=count_rejected(output)
        )
    if not events:
        return ShardStatus(dataset, shard, "waiting")
    now = read_progress(checkpoints)
    share = now.tokens_done / max(now.tokens, 1) if now else None
    rejected = now.rejected if now else 0
    known = {"share": share, "restarts": restarts, "rejected": rejected}
    last = events[-1]
    match last["event"]:
        case "stopped":
            return ShardStatus(dataset, shard, "preempted", last["host"], **known)
        case "failed":
            return ShardStatus(dataset, shard, "failed", last["type"], **known)
        case "completed":  # its file is gone, and its parts with it
            return ShardStatus(dataset, shard, "waiting", restarts=restarts)
    if not now or now.pid != last["pid"]:  # it still loads the model
        return ShardStatus(dataset, shard, "running", last["host"], **known)
    silence = time.time() - now.time
    if silence > SILENT_AFTER_SECONDS:
        detail = f"{last['host']}, for {duration(silence)}"
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
        return Snapshot(**json.loads((checkpoints / FILE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def count_rejected(output: Path) -> int:
    """Return how many records of a finished shard were rejected."""
    try:
        with h5py.File(output, "r") as file:
            return len(file["ordinals"]) - int(file.attrs["n_embedded"])
    except (OSError, KeyError):  # being written, or foreign
        return 0


# -- showing ---------------------------------------------------------------------------------------

HEADER = (
    "dataset",
    "shard",
    "state",
    "share",
    "tokens/s",
    "to go",
    "restarts",
    "rejected",
    "where",
)


def make_table(shards: Sequence[ShardStatus]) -> Table:
    """Return a table for a terminal."""
    table = Table()
    for name in HEADER:
        numeric = name in ("share", "tokens/s", "to go", "restarts", "rejected")
        table.add_column(name, justify="right" if numeric else "left")
    for group in by_dataset(shards):
        for shard in group:
            row = [Text(cell) for cell in cells(shard)]
            row[2].stylize(STYLES[shard.state])
            table.add_row(*row)
        table.add_row(*map(Text, totals(group)), style="bold", end_section=True)
    return table


def by_dataset(shards: Sequence[ShardStatus]) -> Iterator[list[ShardStatus]]:
    """Yield the shards of one dataset after another."""
    for dataset in dict.fromkeys(shard.dataset for shard in shards):
        yield [shard for shard in shards if shard.dataset == dataset]


def cells(shard: ShardStatus) -> tuple[str, ...]:
    """Return the row of a shard."""
    return (
        shard.dataset,
        shard.shard,
        shard.state,
        "" if shard.share is None else f"{shard.share:.0%}",
        "" if shard.tokens_per_second is None else f"{shard.tokens_per_second:,.0f}",
        "" if shard.seconds_to_go is None else duration(shard.seconds_to_go),
        str(shard.restarts or ""),
        str(shard.rejected or ""),
        shard.detail,
    )


def totals(shards: Sequence[ShardStatus]) -> tuple[str, ...]:
    """Return the row below a dataset's shards; time to go is at the pace of what runs."""
    share = sum(shard.share or 0 for shard in shards) / len(shards)
    speed = sum(shard.tokens_per_second or 0 for shard in shards)
    running = [shard for shard in shards if shard.seconds_to_go is not None]
    work_to_go = sum(1 - (shard.share or 0) for shard in shards)
    pace = sum((1 - shard.share) / max(shard.seconds_to_go, 1e-9) for shard in running)
    done = sum(shard.state == "done" for shard in shards)
    return (
        shards[0].dataset,
        f"{len(shards)} shards",
        f"{done} done",
        f"{share:.0%}",
        f"{speed:,.0f}" if speed else "",
        duration(work_to_go / pace) if pace else "",
        str(sum(shard.restarts for shard in shards) or ""),
        str(sum(shard.rejected for shard in shards) or ""),
        "",
    )


def duration(seconds: float) -> str:
    """Write a time as people do: 40 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


if __name__ == "__main__":
    main()
