"""The workflow on a real SLURM: preempted, requeued, cancelled, killed, and right in the end.

Jobs compute on the CPU; a brake lets each forward pass take longer than it must, until the scenario
has done its worst, so that there is something to interrupt. Most of a run is waiting, so the
scenarios run side by side, each in a section of the cluster that it has for itself. A job costs
three starts of Python each time that it starts, so there are few: one scenario goes all the way,
the others find the input split, and run no more shards than they need.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml
from cluster import GPUS, Cluster, ask, running_cluster, wait_until, why_not
from sequences import random_sequence, write_fasta
from shards import OFTEN, assert_same_datasets, make_merge
from snakemake_runs import REPOSITORY, link_weights, write_config
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.merged.merge import merge_shards
from spotesm.request.config import check_config
from spotesm.request.request import Request
from spotesm.sequences.sharding import split_fasta

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a cluster can be started"),
]

N_SEQUENCES = 150
SHARDS = ("1-of-3", "2-of-3", "3-of-3")
TOKENS_PER_BATCH = 60  # one sequence, as the shortest has 30 residues
WAIT_SECONDS = 300.0
PROFILE = REPOSITORY / "profiles/slurm"
# Resources given here replace all of the profile's, so that this of them is given again.
OF_PROFILE = yaml.safe_load((PROFILE / "config.yaml").read_text())["set-resources"]["embed_shard"]
PYTHONPATH = (REPOSITORY / "workflow_scripts", Path(__file__).with_name("attentive"))


@dataclasses.dataclass
class Run:
    """One run of the workflow, in a section of the cluster."""

    cluster: Cluster
    section: str
    folder: Path
    unbroken: Path
    shards: tuple[str, ...] = SHARDS
    partition: str = "low"
    driver: subprocess.Popen | None = None

    # -- the driver ----------------------------------------------------------------------------

    @property
    def command(self) -> tuple[str, ...]:
        """Snakemake's, for the merged file if all shards are wanted."""
        snakefile = str(REPOSITORY / "Snakefile")
        return (
            *("-m", "snakemake", *map(str, self.targets), "--snakefile", snakefile, "--nocolor"),
            *("--workflow-profile", str(PROFILE), "--configfile", "my.yaml", *self.resources()),
        )

    @property
    def targets(self) -> list[Path]:
        if self.shards == SHARDS:
            return [Path("results/d/embeddings.h5")]
        return [Path(f"results/d/shards/{shard}.h5") for shard in self.shards]

    def resources(self) -> tuple[str, ...]:
        partition = f"slurm_partition={self.partition}-{self.section}"
        resources = partition, "mem_mb=500", "runtime=10"
        embed = partition, "mem_mb=1000", "runtime=10", f"tokens_per_batch={TOKENS_PER_BATCH}"
        embed += (f"slurm_extra={OF_PROFILE['slurm_extra']}",)
        return (
            *("--set-threads", "embed_shard=1", "--latency-wait", "20"),
            *("--default-resources", *resources),
            *("--set-resources", *(f"embed_shard:{setting}" for setting in embed)),
            *("--slurm-init-seconds-before-status-checks", "2"),
        )

    @contextlib.contextmanager
    def started(self, *command: str) -> Iterator[None]:
        """With its driver running: Snakemake, which finds the input split, or another command."""
        self.folder.mkdir()
        (self.folder / "in.fasta").symlink_to(self.unbroken / "in.fasta")
        if not command:
            configure(self.folder)
            (self.folder / "resources").symlink_to(self.unbroken / "resources")
            split, but_results = "results/d/shards", shutil.ignore_patterns("*.h5")
            shutil.copytree(self.unbroken / split, self.folder / split, ignore=but_results)
        self.brake.write_text("2")  # seconds that a pass takes longer
        self.start(*command or self.command)
        try:
            yield
        finally:
            self.kill_driver()
            for partition in (self.partition, "high"):
                ask("scancel", "--partition", f"{partition}-{self.section}")

    def start(self, *command: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, PYTHONPATH)),
            "SPOTESM_FAULTS": f"brake={self.brake}",
            # Nothing may be left outside the folder.
            "XDG_CACHE_HOME": str(self.folder / ".cache"),
            "TMPDIR": str(self.folder),
        }
        with open(self.folder / "driver.log", "ab") as output:
            self.driver = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def kill_driver(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def finish(self) -> None:
        """Take the brake off, wait for the end, and compare with the unbroken run."""
        self.brake.unlink()
        with contextlib.suppress(subprocess.TimeoutExpired):  # what was said says more
            self.driver.wait(WAIT_SECONDS)
        assert self.driver.returncode == 0, self.said
        for target in self.targets:
            assert_same_datasets(self.folder / target, self.unbroken / target)

    @property
    def brake(self) -> Path:
        return self.folder / "brake"

    @property
    def said(self) -> str:
        """What Snakemake printed."""
        return (self.folder / "driver.log").read_text()

    # -- the jobs ------------------------------------------------------------------------------

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
            for shard in self.shards:
                if len(self.starts(shard)) >= attempt:
                    parts = self.count_parts(shard)
                    if parts > before.setdefault(shard, parts):
                        progressed.add(shard)
            return len(progressed) == len(self.shards)

        wait_until(all_progressed, f"progress in attempt {attempt}", WAIT_SECONDS)

    def hold(self) -> None:
        """Let no pass end before the brake is off."""
        heavier = self.brake.with_suffix(".new")
        heavier.write_text("1000")
        heavier.replace(self.brake)

    def has_second_writer(self) -> bool:
        """Whether a job waits for another that writes its shard."""
        assert self.driver.poll() is None, self.said
        logs = self.folder.glob("results/d/logs/embed_shard/*.log")
        return any("another process is writing this shard" in log.read_text() for log in logs)

    def preempt_all(self) -> None:
        """Have all GPUs that this run uses taken by jobs of higher priority, for a moment."""
        for node in {self.placement(shard)[0] for shard in self.shards}:
            options = f"-N1 --gpus-per-node={GPUS} --mem=100 -n1 -w {node} -o /dev/null"
            ask("sbatch", "-p", f"high-{self.section}", *options.split(), "--wrap", "sleep 1")

    # -- what must hold --------------------------------------------------------------------------

    def assert_devices_of_their_own(self, starts: dict[str, dict]) -> None:
        """All run at once, on more than a node has; each sees the one that SLURM gave it."""
        places = {shard: self.placement(shard) for shard in starts}
        assert len(places) == GPUS + 1
        assert len(set(places.values())) == len(places)
        assert {node for node, _ in places.values()} == set(self.cluster.nodes[self.section])
        seen = {shard: start["visible_gpus"] for shard, start in starts.items()}
        assert seen == {shard: gpu for shard, (_, gpu) in places.items()}

    def assert_nothing_twice(self, *shards: str) -> None:
        """Every sequence of these was computed once, over all attempts."""
        for shard in shards:
            n = (self.folder / f"results/d/shards/{shard}.fasta").read_text().count(">")
            assert sum(entry.get("computed", 0) for entry in self.journal(shard)) == n

    def assert_no_retry(self) -> None:
        """Each shard kept its job number; Snakemake noticed nothing."""
        assert all(len(self.slurm_jobs(shard)) == 1 for shard in self.shards)
        assert "Trying to restart" not in self.said


def configure(folder: Path) -> dict:
    """Write the config of a run; what it says."""
    path = write_config(folder, datasets={"d": "in.fasta"}, shards=3, checkpoint={"sequences": 2})
    return yaml.safe_load(path.read_text())


# -- scenarios -------------------------------------------------------------------------------------


def jobs_of_one_command_are_cancelled_requeued_and_killed(run: Run) -> None:
    """From FASTA to report, without a config, with the profile by its name; each on its own GPU."""
    embed = ("-m", "spotesm", "embed", "in.fasta", "--name", "d", "--model", "esm2_t6_8M_UR50D")
    options = ("--weights", "untrained", "--profile", "slurm")
    config = ("--config", "shards=3", "checkpoint={sequences: 2}")
    with run.started(*embed, *options, "--", *run.resources(), *config):
        run.wait_for_progress()
        first = {shard: run.starts(shard)[0] for shard in run.shards}
        run.assert_devices_of_their_own(first)
        cancelled, requeued, killed = run.shards
        ask("scancel", first[cancelled]["slurm_job"])
        ask("scontrol", "requeue", first[requeued]["slurm_job"])
        os.kill(first[killed]["pid"], signal.SIGKILL)
        run.wait_for_progress(attempt=2)
        run.finish()
    kept_its_job = {shard: len(run.slurm_jobs(shard)) == 1 for shard in first}
    assert kept_its_job == {cancelled: False, requeued: True, killed: False}
    for shard in (cancelled, requeued):
        assert run.events(shard) == ["start", "stopped", "start", "completed"]
    run.assert_nothing_twice(cancelled, requeued)
    assert run.events(killed) == ["start", "start", "completed"]
    assert "results/d/embeddings.h5: 150 rows of 320 dimensions" in run.said
    assert (run.folder / "results/d/report.html").exists()


def all_are_preempted_twice_in_a_row(run: Run) -> None:
    run.shards = SHARDS[:2]
    with run.started():
        for attempt in (1, 2):
            run.wait_for_progress(attempt)
            run.preempt_all()
        run.wait_for_progress(attempt=3)
        run.finish()
    for shard in run.shards:
        assert run.events(shard) == ["start", "stopped"] * 2 + ["start", "completed"]
    run.assert_no_retry()
    run.assert_nothing_twice(*run.shards)


def one_is_preempted_without_grace_and_reaches_its_time_limit(run: Run) -> None:
    run.shards, run.partition = SHARDS[:1], "abrupt"
    (shard,) = run.shards
    with run.started():
        run.wait_for_progress()
        run.preempt_all()
        run.wait_for_progress(attempt=2)
        job = run.starts(shard)[-1]["slurm_job"]
        # In whole minutes, and beyond the next time that SLURM looks whose limit is near, which it
        # does twice a minute; near enough for the profile's signal to be sent then.
        minutes, seconds = map(int, ask("squeue", "-h", "-j", job, "-o", "%M").split(":"))
        limit = (60 * minutes + seconds + 35) // 60 + 1
        ask("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        wait_until(lambda: run.events(shard).count("stopped") == 2, "the stop", WAIT_SECONDS)
        (log,) = run.folder.glob(f"results/logs/slurm/*/*/{job}.log")
        assert "DUE TO TIME LIMIT" not in log.read_text()
        ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")
        run.finish()
    assert run.events(shard) == ["start", "stopped"] * 2 + ["start", "completed"]
    run.assert_no_retry()
    run.assert_nothing_twice(*run.shards)


def a_node_is_lost_and_the_driver_is_killed(run: Run) -> None:
    run.shards = SHARDS[:1]
    (shard,) = run.shards
    with run.started():
        run.wait_for_progress()
        lost, _ = run.placement(shard)
        run.cluster.lose_node(lost)
        try:
            run.wait_for_progress(attempt=2)
            before, orphan = run.starts(shard)
            assert orphan["slurm_job"] == before["slurm_job"]
            run.hold()
            run.kill_driver()
            run.start(*run.command)
            wait_until(run.has_second_writer, "a second job for the shard", WAIT_SECONDS)
            run.finish()
        finally:
            run.cluster.start_node(lost)
    # The orphan went on, and nobody wrote beside it.
    assert run.events(shard)[-1] == "completed"
    assert all(entry["pid"] != orphan["pid"] for entry in run.starts(shard)[2:])
    assert not psutil.pid_exists(orphan["pid"])
    run.cluster.wait_for_nodes(run.section)


# -- the tests -------------------------------------------------------------------------------------

Scenario = Callable[[Run], None]
SCENARIOS: tuple[Scenario, ...] = (
    jobs_of_one_command_are_cancelled_requeued_and_killed,
    all_are_preempted_twice_in_a_row,
    one_is_preempted_without_grace_and_reaches_its_time_limit,
    a_node_is_lost_and_the_driver_is_killed,
)
SECTIONS = "abcd"


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
def unbroken(base: Path, weights_manifest: Path) -> Path:
    """The folder of a run without Snakemake, SLURM and faults."""
    folder = base / "unbroken"
    split = folder / "results/d/shards"
    split.mkdir(parents=True)
    rng = random.Random(30)
    records = [(f"p{i}", random_sequence(rng, rng.randint(30, 100))) for i in range(N_SEQUENCES)]
    fasta = write_fasta(folder / "in.fasta", records)
    link_weights(folder, weights_manifest)
    shards = [split / f"{shard}.fasta" for shard in SHARDS]
    split_fasta([fasta], shards, split / "rejected.tsv", split / "split.json")
    request = Request.of_config(check_config(configure(folder)))
    for shard in shards:
        places = shard, shard.with_suffix(".h5"), weights_manifest, folder / shard.stem
        embed_shard(ShardJob(*places, request, TOKENS_PER_BATCH, OFTEN))
    merge_shards(make_merge([shard.with_suffix(".h5") for shard in shards], split, split.parent))
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
