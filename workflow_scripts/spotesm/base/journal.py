"""A journal of what happened to a shard, over all attempts."""

import json
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from spotesm.base.failures import writing
from spotesm.base.text import count

log = logging.getLogger(__name__)


class Journal:
    """One JSON line an event.

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
        with writing(self.path), open(self.path, "a+b") as file:
            # What a crash cut short must not swallow this line.
            start = b"" if self._ends_a_line(file) else b"\n"
            file.write(start + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _ends_a_line(file: BinaryIO) -> bool:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

    def read(self) -> list[dict]:
        """Return all events, oldest first; what a crash cut short, or is none, is left out."""
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                entries.append(entry)
        return entries

    def read_since_completed(self, fits: Callable[[dict], bool] = lambda _: True) -> list[dict]:
        """Return the lines of the work in hand: those after the shard was last completed.

        Args:
            fits: whether an event has what it must have; the log says how many lines have not.
        """
        entries = [entry for entry in self.read() if fits(entry)]
        if damaged := self._count_lines() - len(entries):
            log.warning(
                "%s: %s; what happened then is not known", self.path, count(damaged, "damaged line")
            )
        completed = [place for place, entry in enumerate(entries) if entry["event"] == "completed"]
        return entries[completed[-1] + 1 :] if completed else entries

    def _count_lines(self) -> int:
        return len(self.path.read_bytes().splitlines()) if self.path.exists() else 0
