"""The workflow on a real SLURM: preempted, requeued, cancelled, killed, and right in the end.

Jobs compute on the CPU; a brake lets each forward pass take longer than it must, until the scenario
has done its worst, so that there is something to interrupt. Most of a run is waiting, so the
scenarios run side by side, each in a section of the cluster that it has for itself.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cluster import GPUS, Cluster, ask, running_cluster, wait_until, why_not
from sequences import random_sequence, write_fasta
from shards import assert_same_datasets
from snakemake_runs import REPOSITORY, snakemake, start_snakemake, write_config

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a cluster can be started"),
]

N_SEQUENCES = 150
WAIT_SECONDS = 300.0
SPEED = ("--set-threads", "embed_shard=1")


@dataclasses.dataclass
class Run:
    """One run of the workflow, in a section of the cluster."""

    cluster: Cluster
    section: str
    folder: Path
    unbroken: Path
    shards: int = 3
    partition: str = "low"
    slow: float = 2.0  # seconds that a pass takes, as long as the brake is on
    driver: subprocess.Popen | None = None

    # -- the driver ----------------------------------------------------------------------------

    def arguments(self) -> tuple[str, ...]:
        profile = str(REPOSITORY / "profiles/slurm")
        return (
            *("results/d/embeddings.h5", "--workflow-profile", profile),
            *("--configfile", "my.yaml", *self.resources()),
        )

    def resources(self) -> tuple[str, ...]:
        partition = f"slurm_partition={self.partition}-{self.section}"
        resources = partition, "mem_mb=500", "runtime=10"
        embed = partition, "mem_mb=1000", "runtime=10", "tokens_per_batch=300"
        embed += ("slurm_extra='--signal=TERM@30'",)
        return (
            *(*SPEED, "--latency-wait", "20"),
            *("--default-resources", *resources),
            *("--set-resources", *(f"embed_shard:{setting}" for setting in embed)),
            *("--slurm-init-seconds-before-status-checks", "2"),
            *("--seconds-between-status-checks", "1"),
        )

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        (self.folder / "resources").mkdir(parents=True)
        (self.folder / "in.fasta").symlink_to(self.unbroken / "in.fasta")
        (self.folder / "resources/weights").symlink_to(self.unbroken / "resources/weights")
        prepare(self.folder, self.shards)
        self.brake.write_text(str(self.slow))
        self.start()
        try:
            yield
        finally:
            self.kill_driver()
            for partition in (self.partition, "high"):
                ask("scancel", "--partition", f"{partition}-{self.section}")

    def start(self) -> None:
        with open(self.folder / "driver.log", "ab") as output:
            faults = {"SPOTESM_FAULTS": f"brake={self.brake}"}
            self.driver = start_snakemake(
                self.folder, *self.arguments(), stdout=output.fileno(), **faults
            )

    def kill_driver(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def finish(self) -> None:
        """Take the brake off, wait for the end, and compare with the unbroken local run."""
        self.brake.unlink()
        with contextlib.suppress(subprocess.TimeoutExpired):  # what was said says more
            self.driver.wait(WAIT_SECONDS)
        assert self.driver.returncode == 0, self.said
        expected = self.unbroken / "results/d/embeddings.h5"
        assert_same_datasets(self.folder / "results/d/embeddings.h5", expected)

    @property
    def brake(self) -> Path:
        return self.folder / "brake"

    @property
    def said(self) -> str:
        """What Snakemake printed."""
        return (self.folder / "driver.log").read_text()

    # -- the jobs ------------------------------------------------------------------------------

    def started_shards(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "results/d/checkpoints").glob("*"))

    def journal(self, shard: str) -> list[dict]:
        path = self.folder / "results/d/checkpoints" / shard / "journal.jsonl"
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in path.read_text().splitlines()]
        return []

    def events(self, shard: str) -> list[str]:
        return [entry["event"] for entry in self.journal(shard)]

    def starts(self, shard: str) -> list[dict]:
        return [entry for entry in self.journal(shard) if entry["event"] == "start"]

    def slurm_jobs(self, shard: str) -> set[str]:
        return {entry["slurm_job"] for entry in self.starts(shard)}

    def placement(self, shard: str) -> tuple[str, str]:
        """The node and the GPU of a shard's running job."""
        shown = ask("scontrol", "show", "job", "-d", self.starts(shard)[-1]["slurm_job"])
        return re.search(r"Nodes=(\S+) CPU_IDs.*GRES=gpu:fake:1\(IDX:(\d+)\)", shown).groups()

    def count_parts(self, shard: str) -> int:
        return len(list((self.folder / "results/d/checkpoints" / shard).glob("part-*.pt")))

    def wait_for_progress(self, attempt: int = 1) -> None:
        """Until each shard's attempt has written a part of its own."""
        before: dict[str, int] = {}
        progressed: set[str] = set()

        def all_progressed() -> bool:
            assert self.driver.poll() is None, self.said
            for shard in self.started_shards():
                if len(self.starts(shard)) >= attempt:
                    parts = self.count_parts(shard)
                    if parts > before.setdefault(shard, parts):
                        progressed.add(shard)
            return len(progressed) == self.shards

        wait_until(all_progressed, f"progress in attempt {attempt}", WAIT_SECONDS)

    def hold(self) -> None:
        """Let no pass end before the brake is off."""
        heavier = self.brake.with_suffix(".new")
        heavier.write_text("1000")
        heavier.replace(self.brake)

    def has_second_writers(self) -> bool:
        """Whether a second job waits for the first, in every shard."""
        assert self.driver.poll() is None, self.said
        logs = self.folder.glob("results/d/logs/embed_shard/*.log")
        waiting = ["another process is writing this shard" in log.read_text() for log in logs]
        return sum(waiting) == self.shards

    def preempt_all(self) -> None:
        """Have all GPUs that this run uses taken by jobs of higher priority, for a moment."""
        for node in {self.placement(shard)[0] for shard in self.started_shards()}:
            options = f"-N1 --gpus-per-node={GPUS} --mem=100 -n1 -w {node} -o /dev/null"
            ask("sbatch", "-p", f"high-{self.section}", *options.split(), "--wrap", "sleep 1")

    # -- what must hold in the end --------------------------------------------------------------

    def assert_nothing_twice(self) -> None:
        """Every sequence was computed once, over all attempts of all shards."""
        entries = [entry for shard in self.started_shards() for entry in self.journal(shard)]
        assert sum(entry.get("computed", 0) for entry in entries) == N_SEQUENCES

    def assert_no_retry(self) -> None:
        """Each shard kept its job number; Snakemake noticed nothing."""
        assert all(len(self.slurm_jobs(shard)) == 1 for shard in self.started_shards())
        assert "Trying to restart" not in self.said


def prepare(folder: Path, shards: int) -> None:
    write_config(folder, datasets={"d": "in.fasta"}, shards=shards, checkpoint={"sequences": 1})


# -- scenarios -------------------------------------------------------------------------------------


def each_job_has_a_device_of_its_own(run: Run) -> None:
    run.shards = 5  # one more than a node has GPUs
    places: dict[str, tuple[str, str]] = {}

    def all_placed() -> bool:
        assert run.driver.poll() is None, run.said
        for shard in run.started_shards():
            if shard not in places and run.starts(shard):
                places[shard] = run.placement(shard)
        return len(places) == run.shards

    with run.started():
        wait_until(all_placed, "jobs on all shards", WAIT_SECONDS)
        run.finish()
    assert len(set(places.values())) == run.shards
    assert {node for node, _ in places.values()} == set(run.cluster.nodes[run.section])
    seen = {shard: run.starts(shard)[0]["visible_gpus"] for shard in places}
    assert seen == {shard: gpu for shard, (_, gpu) in places.items()}
    run.assert_no_retry()
    run.assert_nothing_twice()


def one_command_starts_it(run: Run) -> None:
    """Without a config, and with the profile by its name."""
    run.folder.mkdir()
    (run.folder / "in.fasta").symlink_to(run.unbroken / "in.fasta")
    command = (sys.executable, "-m", "spotesm", "embed", "in.fasta", "--name", "d")
    options = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained", "--profile", "slurm")
    ended = subprocess.run(
        [*command, *options, "--", *run.resources(), "--config", "shards=3"],
        cwd=run.folder,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "results/d/embeddings.h5: 150 rows of 320 dimensions" in said
    assert all(start["slurm_job"] for shard in run.started_shards() for start in run.starts(shard))
    expected = run.unbroken / "results/d/embeddings.h5"
    assert_same_datasets(run.folder / "results/d/embeddings.h5", expected)


def all_are_preempted_at_once(run: Run) -> None:
    run.shards = 2
    preempted(run, times=1)


def one_is_preempted_three_times_in_a_row(run: Run) -> None:
    run.shards = 1
    preempted(run, times=3)


def preempted(run: Run, times: int) -> None:
    with run.started():
        for attempt in range(1, times + 1):
            run.wait_for_progress(attempt)
            run.preempt_all()
        run.wait_for_progress(times + 1)
        run.finish()
    for shard in run.started_shards():
        assert run.events(shard) == ["start", "stopped"] * times + ["start", "completed"]
    run.assert_no_retry()
    run.assert_nothing_twice()


def preempted_without_grace(run: Run) -> None:
    run.shards, run.partition = 1, "abrupt"
    with run.started():
        run.wait_for_progress()
        run.preempt_all()
        run.wait_for_progress(attempt=2)
        run.finish()
    assert len(run.starts("1-of-1")) == 2
    run.assert_no_retry()
    run.assert_nothing_twice()


def the_time_limit_is_reached(run: Run) -> None:
    run.shards, run.slow = 1, 4.0
    with run.started():
        run.wait_for_progress()
        job = run.starts("1-of-1")[0]["slurm_job"]
        # In whole minutes, and beyond the next time that SLURM looks whose limit is near, which it
        # does twice a minute.
        minutes, seconds = map(int, ask("squeue", "-h", "-j", job, "-o", "%M").split(":"))
        limit = (60 * minutes + seconds + 35) // 60 + 1
        ask("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        wait_until(lambda: "stopped" in run.events("1-of-1"), "the stop", WAIT_SECONDS)
        ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")
        run.finish()
    assert run.events("1-of-1") == ["start", "stopped", "start", "completed"]
    run.assert_no_retry()
    assert "DUE TO TIME LIMIT" not in run.said
    run.assert_nothing_twice()


def jobs_are_cancelled_requeued_and_killed(run: Run) -> None:
    with run.started():
        run.wait_for_progress()
        cancelled, requeued, killed = run.started_shards()
        first = {shard: run.starts(shard)[0] for shard in run.started_shards()}
        ask("scancel", first[cancelled]["slurm_job"])
        ask("scontrol", "requeue", first[requeued]["slurm_job"])
        os.kill(first[killed]["pid"], signal.SIGKILL)
        run.wait_for_progress(attempt=2)
        run.finish()
    kept_its_job = {shard: len(run.slurm_jobs(shard)) == 1 for shard in first}
    assert kept_its_job == {cancelled: False, requeued: True, killed: False}
    assert run.events(killed) == ["start", "start", "completed"]
    assert all(len(run.starts(shard)) == 2 for shard in first)


def a_node_is_lost_and_the_driver_is_killed(run: Run) -> None:
    run.shards = 2
    with run.started():
        run.wait_for_progress()
        lost, _ = run.placement(run.started_shards()[0])
        run.cluster.lose_node(lost)
        try:
            run.wait_for_progress(attempt=2)
            orphans = {shard: run.starts(shard)[-1] for shard in run.started_shards()}
            run.hold()
            run.kill_driver()
            unlocking = start_snakemake(run.folder, *run.arguments(), "--unlock")
            unlocking.communicate(timeout=WAIT_SECONDS)
            run.start()
            wait_until(run.has_second_writers, "a second job for each shard", WAIT_SECONDS)
            run.finish()
        finally:
            run.cluster.start_node(lost)
    for shard, orphan in orphans.items():
        # The orphan went on, and nobody wrote beside it.
        assert run.events(shard)[-1] == "completed"
        later = run.starts(shard)[2:]
        assert all(entry["pid"] != orphan["pid"] for entry in later)
        assert not psutil.pid_exists(orphan["pid"])
    run.cluster.wait_for_nodes(run.section)


# -- the tests -------------------------------------------------------------------------------------

Scenario = Callable[[Run], None]
SCENARIOS: tuple[Scenario, ...] = (
    each_job_has_a_device_of_its_own,
    one_command_starts_it,
    all_are_preempted_at_once,
    one_is_preempted_three_times_in_a_row,
    preempted_without_grace,
    the_time_limit_is_reached,
    jobs_are_cancelled_requeued_and_killed,
    a_node_is_lost_and_the_driver_is_killed,
)
SECTIONS = "abcdefgh"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def cluster(base: Path) -> Iterator[Cluster]:
    folder = base / "cluster"
    folder.mkdir()
    with running_cluster(folder, SECTIONS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def unbroken(base: Path) -> Path:
    """The folder of a local run, without faults."""
    folder = base / "unbroken"
    folder.mkdir()
    rng = random.Random(30)
    records = [(f"p{i}", random_sequence(rng, rng.randint(30, 100))) for i in range(N_SEQUENCES)]
    write_fasta(folder / "in.fasta", records)
    prepare(folder, shards=3)
    arguments = ("--cores", "2", "--resources", "gpu=1", *SPEED, "--configfile", "my.yaml")
    arguments += ("--set-resources", "embed_shard:tokens_per_batch=300")
    run = snakemake(folder, *arguments)
    assert run.returncode == 0, run.stdout
    return folder


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, cluster: Cluster, base: Path, unbroken: Path
) -> Iterator[dict[Scenario, Future]]:
    """All scenarios that tests were chosen for, running."""
    chosen = [
        item.callspec.params["scenario"]
        for item in request.session.items
        if item.fspath == request.fspath
    ]
    with ThreadPoolExecutor(len(chosen)) as pool:
        yield {
            scenario: pool.submit(scenario, Run(cluster, section, base / section, unbroken))
            for section, scenario in zip(SECTIONS, chosen, strict=False)
        }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_workflow_ends_well_when(scenario: Scenario, outcomes: dict[Scenario, Future]) -> None:
    outcomes[scenario].result()
