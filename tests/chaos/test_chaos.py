"""The whole workflow under random faults: the same command, again and again, to the same file.

The command is what a user types, with no other step between. A new one may begin while what a kill
has left still ends.

`make chaos` runs the long one. Every round embeds the same proteins from the start and is hit
until it is through; its file must equal the unbroken one bit for bit, and no sequence may have
been embedded more often than the faults of the round explain.
"""

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sequences import random_sequence, write_fasta
from shards import assert_same_datasets
from snakemake_runs import start_spotesm

SEED = int(os.environ.get("CHAOS_SEED", "20"))
N_FAULTS = int(os.environ.get("CHAOS_FAULTS", "3"))
N_SEQUENCES = 160
SEQUENCES_IN_A_PART = 8
MOST_IN_FLIGHT = 60  # short ones, in one batch of 512 tokens
WAIT_SECONDS = 240.0
STEPS = {"embed": "embed_shard.py", "merge": "merge_shards.py"}
ARGUMENTS = ("embed", "d.fasta", "--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
ARGUMENTS += ("--gpus", "2", "--", "results/d/embeddings.h5", "--cores", "2")
ARGUMENTS += ("--config", "shards=2", f'checkpoint={{"sequences": {SEQUENCES_IN_A_PART}}}')
ARGUMENTS += ("--set-threads", "embed_shard=1")
ARGUMENTS += ("--set-resources", "embed_shard:tokens_per_batch=512")

KINDS = {
    "SIGKILL to a job": 5,
    "SIGTERM to a job": 4,
    "SIGINT to a job": 2,
    "SIGKILL to Snakemake": 2,
    "SIGKILL to the parent": 2,
    "SIGTERM to the parent": 2,
    "SIGHUP to the parent": 2,
    "SIGHUP to all": 2,
    "SIGTERM to all": 2,
    "SIGINT to all": 2,
    "SIGKILL to all": 2,
    "SIGKILL to the merge": 2,
    "SIGTERM to the merge": 1,
    "damaged part": 4,
    "full disk": 3,
}


@dataclasses.dataclass
class Round:
    """One run of the workflow, from nothing to its file, by as many commands as it takes."""

    folder: Path
    rng: random.Random
    embedded_again: int = 0  # sequences whose repetition the faults explain
    groups: list[int] = dataclasses.field(default_factory=list)
    driver: subprocess.Popen | None = None

    def start(self, *arguments: str, file_size: int = resource.RLIM_INFINITY) -> None:
        """Give the user's command."""
        trace = {"SPOTESM_FAULTS": f"trace={self.folder / 'trace'}"}
        self.driver = start_spotesm(
            self.folder, *ARGUMENTS, *arguments, file_size=file_size, **trace
        )
        self.groups.append(self.driver.pid)

    def alive(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    def end(self) -> int:
        """Wait for the command; its exit code."""
        return self.driver.wait(WAIT_SECONDS)

    def snakemake(self) -> int:
        """The process that the command has started."""
        (child,) = psutil.Process(self.driver.pid).children()
        return child.pid

    def jobs(self, step: str) -> list[psutil.Process]:
        """The processes of a step's script, orphans of killed commands among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) in self.groups and any(
                    argument.endswith(STEPS[step]) for argument in process.cmdline()
                ):
                    found.append(process)
            except (psutil.Error, ProcessLookupError):
                continue
        return found

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("results/d/checkpoints/*/part-*.pt"))

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Wait until the condition holds; whether it did before the command ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if not self.alive():
                return False
            assert time.monotonic() < deadline, "neither the condition nor the end came"
            time.sleep(0.005)
        return True

    def kill_everything(self) -> None:
        for group in self.groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.driver is not None:
            self.driver.wait()


def hit(round_: Round, kind: str) -> bool:
    """Do one fault to a running command; whether there was anything to hit."""
    rng = round_.rng
    name, _, target = kind.partition(" to ")
    if kind == "damaged part":
        return damage_a_part(round_)
    number = signal.Signals[name]
    if target == "the merge":
        victims = round_.jobs("merge") if round_.wait_for(lambda: round_.jobs("merge")) else []
        polls = iter(range(rng.randint(0, 300)))
    else:
        goal = len(round_.parts()) + rng.choice([0, 0, 1, 2])
        if not round_.wait_for(lambda: round_.jobs("embed") and len(round_.parts()) >= goal):
            return False
        victims = round_.jobs("embed")
        polls = iter(range(rng.randint(0, 100)))
    round_.wait_for(lambda: next(polls, None) is None)
    if number == signal.SIGKILL and target not in ("Snakemake", "the parent"):
        killed = len(victims) if target == "all" else 1
        round_.embedded_again += killed * (SEQUENCES_IN_A_PART + MOST_IN_FLIGHT)
    try:
        if target == "all":
            os.killpg(round_.driver.pid, number)
        elif target == "the parent":
            os.kill(round_.driver.pid, number)
        elif target == "Snakemake":
            os.kill(round_.snakemake(), number)
        elif victims:
            rng.choice(victims).send_signal(number)
        else:
            return False
    except (ProcessLookupError, psutil.NoSuchProcess, ValueError):
        return False
    return True


def damage_a_part(round_: Round) -> bool:
    """Cut, flip a bit of, or empty a part, under the eyes of the job that may be reading it."""
    if not round_.wait_for(round_.parts):
        return False
    rng = round_.rng
    try:
        path = rng.choice(round_.parts())
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        how = rng.choice(["cut", "flip", "empty"])
        if how == "flip":
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content if how == "flip" else content[: place if how == "cut" else 0])
    except (FileNotFoundError, IndexError):  # the shard was finished meanwhile
        return False
    round_.embedded_again += SEQUENCES_IN_A_PART + MOST_IN_FLIGHT
    return True


def play(round_: Round, wanted: int) -> Counter[str]:
    """Run the workflow to its end through at most `wanted` faults; those that it suffered."""
    suffered: Counter[str] = Counter()
    for _ in range(10 * wanted):
        kinds = list(KINDS) if suffered.total() < wanted else []
        kind = round_.rng.choices(kinds, [KINDS[k] for k in kinds])[0] if kinds else ""
        if kind == "full disk":
            if round_.alive():
                round_.end()
            # Every retry of every shard fails in the same way: one is enough.
            file_size = round_.rng.choice([4_000, 30_000, 100_000])
            round_.start("--retries", "1", file_size=file_size)
            round_.embedded_again += 3 * 2 * (SEQUENCES_IN_A_PART + MOST_IN_FLIGHT)
            if round_.end() == 0:
                return suffered
            suffered[kind] += 1
            continue
        if not round_.alive():
            round_.start()
        if kind and hit(round_, kind):
            suffered[kind] += 1
            if kind.endswith(("Snakemake", "the parent", "all")):
                round_.end()
        elif round_.end() == 0:
            return suffered
    raise AssertionError("the round never ended")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without faults."""
    folder = tmp_path_factory.mktemp("unbroken")
    rng = random.Random(SEED)
    records = [(f"p{i}", random_sequence(rng, rng.randint(5, 150))) for i in range(N_SEQUENCES)]
    records += [(f"twin{i}", records[i][1]) for i in range(0, N_SEQUENCES, 20)]
    write_fasta(folder / "d.fasta", records)
    assert start_spotesm(folder, *ARGUMENTS).wait(WAIT_SECONDS) == 0
    return folder


@pytest.mark.chaos
def test_nothing_is_lost(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    suffered: Counter[str] = Counter()
    started = time.monotonic()
    while suffered.total() < N_FAULTS:
        folder = tmp_path / "round"
        folder.mkdir()
        shutil.copy(unbroken / "d.fasta", folder)
        shutil.copytree(unbroken / "resources", folder / "resources")
        round_ = Round(folder, rng)
        try:
            suffered += play(round_, min(N_FAULTS - suffered.total(), 25))
        finally:
            round_.kill_everything()
        result = Path("results/d/embeddings.h5")
        assert_same_datasets(folder / result, unbroken / result)
        embedded = (folder / "trace").stat().st_size
        assert N_SEQUENCES <= embedded <= N_SEQUENCES + round_.embedded_again
        shutil.rmtree(folder)
        with capsys.disabled():
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(suffered.items()))
            seconds = time.monotonic() - started
            print(f"\nseed {SEED}: {suffered.total()} faults in {seconds:.0f} s: {counts}")
