"""The quiet screen for Snakemake: `snakemake --logger spotesm`, which `spotesm embed` asks for.

Snakemake finds this package by its name. Its own log, with everything, is in `.snakemake/log`.
"""

import logging
import os
import re
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Of a job that failed there is a line of its own already.
SAID_ELSEWHERE = ("RuleException", "CalledProcessError")
NOTHING_TO_DO = "Nothing to be done"


class LogHandler(LogHandlerBase):
    """Turns what Snakemake says of its jobs into calls of a `Screen`."""

    def __post_init__(self) -> None:
        # Here: every Snakemake imports all plugins, those of its jobs, too.
        from rich.console import Console
        from spotesm.base.logs import QUIET
        from spotesm.commands.screen import Screen

        os.environ[QUIET] = "1"  # to the jobs: the screen reads their logs
        self.screen = Screen(Console(stderr=not self.common_settings.stdout))
        self.ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show what is worth a line."""
        facts = vars(record)
        if self.ended:  # what Snakemake adds to it is no news
            return
        match facts.get("event"):
            case LogEvent.JOB_INFO if facts["log"]:
                log = Path(facts["log"][0])
                self.screen.start_job(facts["jobid"], facts["rule_msg"] or log.stem, log)
            case LogEvent.JOB_FINISHED:
                self.screen.finish_job(facts["job_id"])
            case LogEvent.JOB_ERROR:
                self.screen.fail_job(facts["jobid"])
            case LogEvent.ERROR if facts.get("exception") not in SAID_ELSEWHERE:
                self.screen.say(without_place(record.getMessage()))
            case None if facts.get("last_words"):
                self.ended = True
                self.screen.end(record.getMessage())
            case None if record.getMessage().startswith(NOTHING_TO_DO):
                self.screen.end(record.getMessage())

    def close(self) -> None:
        """Take the bar away."""
        self.screen.close()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """In place of Snakemake's own lines."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """No."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses by event."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It makes its own lines."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False


def without_place(message: str) -> str:
    """Return an error without where in the Snakefile it was raised."""
    place = re.compile(r"\w+ in file .*, line \d+|\s+File .*, line \d+, in |\w+(Error|Exception):$")
    lines = [line for line in message.splitlines() if not place.match(line)]
    return "\n".join(lines) or message
