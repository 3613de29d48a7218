"""Make the README's pictures from a real run: its screen, its status while it works, its report.

    .venv/bin/python docs/make_pictures.py

Embeds random proteins in a temporary folder, kills one of the jobs, and watches it resume. Needs
Chromium.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from playwright.sync_api import sync_playwright
from rich.console import Console, RenderableType
from rich.text import Text
from spotesm.commands.screen import draw_bar
from spotesm.commands.status import make_table
from spotesm.embed.progress import FILE_NAME
from spotesm.runs.state import ShardStatus, Total, read_progress, read_run

Found = TypeVar("Found")
REPOSITORY = Path(__file__).parents[1]
PICTURES = REPOSITORY / "docs/pictures"
N_PROTEINS = 900
WAIT_SECONDS = 300.0
CONFIG = """\
datasets: {phages: phages.fasta}
shards: 8
model: {name: esm2_t6_8M_UR50D, weights: untrained}
checkpoint: {sequences: 10}
long_sequences: {window: 500, overlap: 100}
"""


def main() -> None:
    """Run, watch and draw."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--directory", name, "--configfile", f"{name}/my.yaml", "--cores", "all"]
        # Small batches, so that a short run has something to show.
        command += ["--set-resources", "embed_shard:tokens_per_batch=1024", "--logger", "spotesm"]
        said = folder / "said.txt"
        with open(said, "w") as screen:
            run = subprocess.Popen(command, stderr=screen)
        try:
            killed = kill_a_shard(folder)
            draw_status(folder, killed)
            draw_bar_below(said.read_text(encoding="utf-8"), folder)
            run.wait(WAIT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                run.kill()
        draw_report(folder / "results/phages/report.html")


def write_input(folder: Path) -> None:
    """Write random proteins, and a config."""
    rng = random.Random(0)
    with open(folder / "phages.fasta", "w") as file:
        for i in range(N_PROTEINS):
            length = min(2000, int(rng.lognormvariate(5.3, 0.7)) + 20)
            file.write(f">phage{i}\n{''.join(rng.choices('ACDEFGHIKLMNPQRSTVWY', k=length))}\n")
    (folder / "my.yaml").write_text(CONFIG)


def kill_a_shard(folder: Path) -> str:
    """Kill the fourth shard's job when it is half done; which shard it was."""

    def half_done() -> ShardStatus | None:
        shards = read_run(folder / "results")
        halves = [s for s in shards if s.state == "running" and 0.3 < (s.share or 0) < 0.9]
        done = sum(s.state == "done" for s in shards)
        return halves[0] if halves and done >= 3 else None

    shard = wait_for(half_done).shard
    checkpoints = folder / "results/phages/checkpoints" / shard
    progress = read_progress(checkpoints)
    assert progress, f"{checkpoints / FILE_NAME} cannot be read"
    os.kill(progress.pid, signal.SIGKILL)
    return shard


def draw_status(folder: Path, killed: str) -> None:
    """Draw the table once the killed shard works again."""

    def resumed() -> list[ShardStatus] | None:
        shards = read_run(folder / "results")
        again = [s for s in shards if s.shard == killed and s.restarts and s.tokens_per_second]
        return shards if again else None

    save("status.svg", "spotesm status", make_table(wait_for(resumed)))


def draw_bar_below(said: str, folder: Path) -> None:
    """Draw the screen as it is now: what has been said, and the bar."""
    lines = [line for line in said.splitlines() if not line.startswith("Using workflow specific")]
    bar = draw_bar("Embedding", Total.of(read_run(folder / "results")))
    save("bar.svg", "spotesm embed phages.fasta", Text("\n".join(lines)), bar)


def save(name: str, title: str, *shown: RenderableType) -> None:
    """Save a picture of a terminal."""
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(*shown, sep="\n")
    picture = console.export_svg(title=title)
    # Rich would have the reader's browser fetch a font.
    picture = re.sub(r"@font-face \{[^}]*\}", "", picture)
    (PICTURES / name).write_text(picture, encoding="utf-8")


def draw_report(report: Path) -> None:
    """Photograph the top of the report, with a protein found."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 1250})
        page.goto(report.as_uri())
        page.fill("#protein", "phage7")
        page.press("#protein", "Enter")
        page.wait_for_selector("#neighbours td")
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
        page.screenshot(path=PICTURES / "report.png")
        browser.close()


def wait_for(condition: Callable[[], Found | None]) -> Found:
    """Wait, bounded, until a condition gives something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := condition()) is None:
        if time.monotonic() > deadline:
            raise SystemExit("the run did not come so far")
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    main()
