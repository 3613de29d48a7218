"""The last line of a run, from what the merge counted."""

from pathlib import Path

import click

from spotesm.base.durable import read_json
from spotesm.base.failures import InputError
from spotesm.merged.merge import describe


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def summary(files: tuple[Path, ...]) -> None:
    """Say in one line what each summary.json tells.

    \b
      spotesm summary results/*/summary.json
    """
    for file in files:
        click.echo(describe_file(file))


def describe_file(path: Path) -> str:
    """Return the line on a summary.json.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        return describe(read_json(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no summary.json that a merge wrote") from error
