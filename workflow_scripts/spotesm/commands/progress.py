"""How far a long command is: a bar, or a line a minute where no terminal is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far something is; what is given back is told how many more of `total` are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(what, total, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(escape(what), total=total)
        yield lambda more: bar.advance(task, more)


def lines(
    what: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Return what says how many are done, in a line a minute."""
    done, said = 0, clock()

    def advance(more: int) -> None:
        nonlocal done, said
        done, now = done + more, clock()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            click.echo(f"{what}: {done:,} of {total:,} {unit}", err=True)

    return advance
