"""How far a run is: a table over datasets and shards, while jobs work or afterwards."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spotesm.base.failures import InputError
from spotesm.base.paths import RESULTS
from spotesm.base.text import count, duration
from spotesm.runs.state import ShardStatus, Total, read_run

SECONDS_BETWEEN_TABLES = 2.0
STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "silent": "yellow",
    "preempted": "yellow",
    "failed": "red",
    "done": "green",
}


@click.command()
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=RESULTS,
    show_default=True,
    help="The folder `results` of the run.",
)
@click.option("--watch", is_flag=True, help="Look again and again, until all is done or Ctrl-C.")
def status(results: Path, watch: bool) -> None:
    """Show how far a run is.

    A terminal gets what is not done, and totals; a pipe gets every shard, separated by tabs. Reads
    nothing but files, so it works on any machine that sees the folder of the run.

    \b
      spotesm status --watch
    """
    console = Console()
    if not watch:
        show(console, read_shards(results))
        return
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            shards = read_shards(results)
            live.update(make_table(shards), refresh=True)
            if all(shard.state == "done" for shard in shards):
                return
            time.sleep(SECONDS_BETWEEN_TABLES)


def read_shards(results: Path) -> list[ShardStatus]:
    """Return the state of every shard.

    Raises:
        InputError: there is none.
    """
    shards = read_run(results)
    if not shards:
        raise InputError(f"{results}: no shards of a run here; is this the folder of the run?")
    return shards


def show(console: Console, shards: Sequence[ShardStatus]) -> None:
    """Print a table, or lines of tab-separated text where no terminal is."""
    if console.is_terminal:
        console.print(make_table(shards))
        return
    for row in [HEADER, *map(cells, shards), *map(totals, by_dataset(shards))]:
        click.echo("\t".join(row))


HEADER = (
    "dataset",
    "shard",
    "state",
    "share",
    "tokens/s",
    "to go",
    "restarts",
    "rejected",
    "reused",
    "where",
)


def make_table(shards: Sequence[ShardStatus]) -> Table:
    """Return a table for a terminal: what is at work or stuck, and totals."""
    rows = [*map(cells, shards), totals(shards)]
    # Without columns in which nothing is, and with names that wrap, it fits a narrow terminal.
    shown = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    table = Table()
    for place in shown:
        name = HEADER[place]
        is_text = name in ("dataset", "shard", "state", "where")
        wraps = name in ("dataset", "where")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not wraps)

    def add(row: Sequence[str | Text], **style: object) -> None:
        table.add_row(*(row[place] for place in shown if place < len(row)), **style)

    groups = list(by_dataset(shards))
    for group in groups:
        for shard in group:
            if shard.state not in ("done", "waiting"):
                row = [Text(cell) for cell in cells(shard)]
                row[2].stylize(STYLES[shard.state])
                add(row)
        if waiting := sum(shard.state == "waiting" for shard in group):
            add([Text(group[0].dataset), f"{waiting} more", "waiting"], style=STYLES["waiting"])
        add([*map(Text, totals(group))], style="bold", end_section=True)
    if len(groups) > 1:
        add(["", *map(Text, totals(shards)[1:])], style="bold")
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
        str(shard.reused or ""),
        shard.detail,
    )


def totals(shards: Sequence[ShardStatus]) -> tuple[str, ...]:
    """Return the row below a dataset's shards."""
    total = Total.of(shards)
    return (
        shards[0].dataset,
        count(total.shards, "shard"),
        f"{total.done} done",
        f"{total.share:.0%}",
        f"{total.tokens_per_second:,.0f}" if total.tokens_per_second else "",
        "" if total.seconds_to_go is None else duration(total.seconds_to_go),
        str(total.restarts or ""),
        str(total.rejected or ""),
        str(total.reused or ""),
        "",
    )
