"""What a job says while it works: its log file, and a line every few seconds."""

import logging
import sys
import time
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


def configure_logging(path: Path) -> None:
    """Send log lines to the file `path` and to standard error."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        handlers=[logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stderr)],
        force=True,
    )


class Progress:
    """Counts what is embedded, and logs speed and remaining time now and then."""

    def __init__(self, tokens: np.ndarray, done: np.ndarray) -> None:
        """Begin with `done` (u,) of the sequences that cost `tokens` (u,)."""
        self.tokens = tokens
        self.tokens_to_do = int(tokens[~done].sum())
        self.tokens_computed = 0
        self.resumed = int(done.sum())
        self.computed = 0
        self.started = self.last_line = time.monotonic()
        log.info("%d of %d sequences are done already", self.resumed, len(done))

    @property
    def seconds(self) -> float:
        """Time since the work began."""
        return time.monotonic() - self.started

    def advance(self, batch: np.ndarray) -> None:
        """Count the sequences with the indices `batch` as embedded."""
        self.computed += len(batch)
        self.tokens_computed += int(self.tokens[batch].sum())
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            speed = self.tokens_computed / self.seconds
            log.info(
                "%d sequences more, %.1f%% of the tokens, %.0f tokens/s, %.0f s to go",
                self.computed,
                100 * self.tokens_computed / self.tokens_to_do,
                speed,
                (self.tokens_to_do - self.tokens_computed) / speed,
            )
