"""What a run shows while it works: one bar over all shards, warnings, failed jobs, nothing else.

It reads what the jobs leave on disk, so it is the same for jobs of this machine and of a cluster.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spotesm.base.logs import last_error, read_messages, was_stopped
from spotesm.base.paths import RESULTS
from spotesm.base.text import count, duration
from spotesm.runs.explain import dataset_of, name_of
from spotesm.runs.state import Total, read_run

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 60.0  # where there is no terminal
# Most that looking may take: many shards on a slow disk are looked at less often.
SHARE_OF_TIME = 0.1
BAR_WIDTH = 20


@dataclass
class Job:
    """A job that runs.

    Attributes:
        message: what it does.
        log: its log file.
        lines: how many lines of it have been looked at.
    """

    message: str
    log: Path
    lines: int = 0


class Screen:
    """The screen of a run; made when Snakemake starts, closed when it ends.

    Args:
        console: where to write; whether it is a terminal decides between a bar and lines.
        results: the folder `results` of the run.
        clock: seconds, for the tests.
    """

    def __init__(
        self,
        console: Console,
        results: Path = RESULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.results = results
        self.clock = clock
        self.last_line = clock()
        self.jobs: dict[int, Job] = {}
        self.datasets: set[str] = set()
        self.said: set[str] = set()
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.live: Live | None = None
        self.thread = threading.Thread(target=self._look_again_and_again, daemon=True)

    # -- what Snakemake tells ----------------------------------------------------------------------

    def start_job(self, number: int, message: str, log: Path) -> None:
        """Note a job that starts, or starts again; of one for the whole run there is a line."""
        with self.lock:
            dataset = dataset_of(log, self.results)
            if dataset:
                self.datasets.add(dataset)
            else:
                self._say_once(message)
            self.jobs[number] = Job(message, log)
            if not self.thread.is_alive():
                self.thread.start()

    def finish_job(self, number: int) -> None:
        """Show the last warnings of a job that is done."""
        with self.lock:
            if job := self.jobs.pop(number, None):
                self._show_warnings(job)

    def fail_job(self, number: int) -> None:
        """Say at once which job failed, and why, once; Snakemake may try it again."""
        with self.lock:
            if job := self.jobs.pop(number, None):
                self._show_warnings(job)
                if was_stopped(job.log):  # which was a warning
                    return
                why = last_error(job.log) or _why_without_a_word(job.log)
                self._say_once(f"{name_of(job.log, self.results)} failed: {why}")

    def say(self, text: str) -> None:
        """Show lines above the bar."""
        with self.lock:
            self._say(text)

    def end(self, text: str) -> None:
        """Take the bar away, and show the last lines of the run."""
        self.close()
        self._say(text)

    def close(self) -> None:
        """Take the bar away."""
        self.closing.set()
        if self.thread.is_alive():
            self.thread.join()
        with self.lock:
            self._show_bar(None)

    # -- what it shows -----------------------------------------------------------------------------

    def _look_again_and_again(self) -> None:
        pause = SECONDS_BETWEEN_LOOKS
        while not self.closing.wait(pause):
            started = time.monotonic()
            with self.lock:
                self.look()
            cost = time.monotonic() - started
            pause = max(SECONDS_BETWEEN_LOOKS, cost / SHARE_OF_TIME)

    def look(self) -> None:
        """Show what has changed since the last look."""
        for job in self.jobs.values():
            self._show_warnings(job)
        working = [job for job in self.jobs.values() if dataset_of(job.log, self.results)]
        if not working:
            self._show_bar(None)
            return
        total = Total.of([s for s in read_run(self.results) if s.dataset in self.datasets])
        verb = working[-1].message.partition(" ")[0]  # Embedding, Merging, ...
        if self.console.is_terminal:
            self._show_bar(draw_bar(verb, total))
        elif self.clock() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = self.clock()
            self._say(describe_total(verb, total))

    def _show_bar(self, bar: Table | None) -> None:
        if self.live and bar is None:
            self.live.stop()
            self.live = None
        elif self.live:
            self.live.update(bar, refresh=True)
        elif bar is not None:
            self.live = Live(
                bar,
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,  # that is for results
                redirect_stderr=False,
            )
            self.live.start(refresh=True)

    def _show_warnings(self, job: Job) -> None:
        messages = list(read_messages(job.log))
        if len(messages) < job.lines:  # Snakemake has tried again, with a new log
            job.lines = 0
        for level, text in messages[job.lines :]:
            if level == "WARNING":
                self._say_once(text)
        job.lines = len(messages)

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def _why_without_a_word(log: Path) -> str:
    """Return what is known of a job whose log has no error; the log is its first deed."""
    if log.exists():
        return "its process was ended from outside"
    return "it ended before it began; what it printed says why"


def draw_bar(verb: str, total: Total) -> Table:
    """Return one line, however narrow the terminal: what is done, a bar, numbers."""
    line = Table.grid(padding=(0, 1))
    for narrowest in (9, 5, 10):
        line.add_column(no_wrap=True, overflow="ellipsis", min_width=narrowest)
    bar = ProgressBar(total=1.0, completed=total.share, width=BAR_WIDTH)
    line.add_row(Text(verb), bar, Text(f"{total.share:.0%}  {describe_numbers(total)}"))
    return line


def describe_total(verb: str, total: Total) -> str:
    """Return the line that stands for the bar where there is no terminal."""
    numbers = describe_numbers(total)
    return f"{total.share:.0%} {verb}{numbers and f': {numbers}'}"


def describe_numbers(total: Total) -> str:
    """Say in numbers how far a run is; empty before there are shards."""
    facts = [f"{total.done}/{total.shards} shards"] if total.shards else []
    if total.tokens_per_second:
        facts.append(f"{total.tokens_per_second:,.0f} tokens/s")
    if total.seconds_to_go is not None:
        facts.append(f"{duration(total.seconds_to_go)} to go")
    if total.restarts:
        facts.append(count(total.restarts, "restart"))
    if total.rejected:
        facts.append(f"{total.rejected} rejected")
    return " · ".join(facts)
