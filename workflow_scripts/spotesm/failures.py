"""What can go wrong: errors that a user understands, and a journal that outlives the process."""

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

# Why a record is rejected by the worker.
OUT_OF_MEMORY = "out_of_memory"
NOT_FINITE = "not_finite"


class UserError(Exception):
    """Something outside the code is wrong: an input, a setting, a file, the machine.

    Its message is shown alone, without a stack trace.
    """


class InputError(UserError):
    """An input file cannot be read as FASTA; names the file and, where known, the line."""


class WeightsError(UserError):
    """A weights file is missing, damaged, or not the model the config names."""


class ShardBusyError(UserError):
    """Another process is writing the same shard."""


class IncompleteError(UserError):
    """A result does not add up: a record is missing, doubled, not finite, or of other settings."""


class Journal:
    """The history of a shard: one JSON line an event, kept over all attempts.

    Snakemake deletes a job's log file before each attempt, so what happened is kept here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, event: str, **facts: object) -> None:
        """Append a line, durably."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **facts,
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict]:
        """Return all lines, oldest first; one that a crash cut short is left out."""
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def read_since_completed(self) -> list[dict]:
        """Return the lines of the work in hand: those after the shard was last completed."""
        entries = self.read()
        completed = [place for place, entry in enumerate(entries) if entry["event"] == "completed"]
        return entries[completed[-1] + 1 :] if completed else entries
