"""The last line of a run: `python -m spotesm.commands.summary summary.json ...` prints it."""

import sys
from pathlib import Path

from spotesm.base.durable import read_json


def describe(summary: dict) -> str:
    """Say in one line where the result is, how large, and how long it took."""
    line = (
        f"{summary['file']}: {summary['n_embedded']} rows of {summary['embedding_dim']} dimensions"
        f" ({summary['n_rejected']} records rejected), computed in {summary['seconds']:.0f} s"
    )
    if summary["untrained"]:
        line += "; the weights are untrained, so these numbers mean nothing biologically"
    return line


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(describe(read_json(Path(path))))
