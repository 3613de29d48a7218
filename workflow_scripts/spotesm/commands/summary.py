"""The last line of a run, from what the merge counted."""

from pathlib import Path

import click

from spotesm.base.durable import read_json
from spotesm.hdf5.merge import describe


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def summary(files: tuple[Path, ...]) -> None:
    """Say in one line what each summary.json tells."""
    for file in files:
        click.echo(describe(read_json(file)))
