"""The door for people: `spotesm COMMAND ...`, or `python -m spotesm COMMAND ...`."""

import os
import sys

# First of all: `python -m`, or an empty entry of PYTHONPATH, lets Python look for modules in the
# folder that the user is in, and a random.py there would be run in place of Python's own.
sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]

from collections.abc import Sequence
from importlib import import_module

import click

from spotesm import __version__
from spotesm.base.failures import UserError, explain_host_fault
from spotesm.base.logs import print_any_letter

# `spotesm X` is the function X of commands/X.py, which is imported when it is called.
COMMANDS = {
    "embed": "Embed the proteins of FASTA files.",
    "plan": "Say what a run will cost.",
    "status": "Show how far a run is.",
    "verify": "Check an embeddings.h5 against its FASTA, and some of its rows against fair-esm.",
    "export": "Write an embeddings.h5 in a format that other tools read.",
    "summary": "Say in one line what each summary.json tells.",
}


class _Commands(click.Group):
    """The commands of the table."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(import_module(f"spotesm.commands.{name}"), name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="spotesm")
def spotesm() -> None:
    """ESM-2 and ESM C protein embeddings of large FASTA files, on GPUs that may be taken away.

    `spotesm COMMAND --help` says more on each.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what is wrong outside the code is one line on standard error, and exit 1."""
    print_any_letter()
    try:
        if code := spotesm.main(arguments, prog_name="spotesm", standalone_mode=False):
            sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except UserError as error:
        sys.exit(str(error))
    except Exception as error:
        fault = explain_host_fault(error)
        if fault is None and isinstance(error, OSError) and error.errno:
            sys.exit(f"{error.filename or spotesm.name}: {error.strerror}")
        if isinstance(error, MemoryError):
            sys.exit(f"memory has run out ({error}); run it where there is more")
        if fault is None:
            raise
        print(fault, file=sys.stderr, flush=True)
        os._exit(1)  # HDF5 would try once more to write what did not fit, and crash


if __name__ == "__main__":
    main()
