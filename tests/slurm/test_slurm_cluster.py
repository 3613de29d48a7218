"""The workflow on a real SLURM: preempted, requeued, cancelled, killed, and right in the end.

Jobs compute on the CPU; each forward pass takes a little longer than it must, so that there is
something to interrupt.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
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

N_SEQUENCES = 60
WAIT_SECONDS = 180.0
SPEED = ("--set-threads", "embed_shard=1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def cluster(base: Path) -> Iterator[Cluster]:
    folder = base / "cluster"
    folder.mkdir()
    with running_cluster(folder) as cluster:
        yield cluster


@dataclasses.dataclass
class Run:
    """One run of the workflow on the cluster."""

    folder: Path
    partition: str = "low"
    runtime: int = 10
    signal: str = "'--signal=TERM@30'"
    slow: float = 0.4
    driver: subprocess.Popen | None = None

    def arguments(self) -> tuple[str, ...]:
        resources = f"slurm_partition={self.partition}", "mem_mb=500", "runtime=10"
        embed = {"mem_mb": 1000, "runtime": self.runtime, "slurm_extra": self.signal}
        embed |= {"slurm_partition": self.partition, "tokens_per_batch": 300}
        return (
            *("--workflow-profile", str(REPOSITORY / "profiles/slurm")),
            *("--configfile", "my.yaml", *SPEED, "--latency-wait", "20"),
            *("--default-resources", *resources),
            *("--set-resources", *(f"embed_shard:{key}={value}" for key, value in embed.items())),
            *("--slurm-init-seconds-before-status-checks", "2"),
            *("--seconds-between-status-checks", "1"),
        )

    def start(self) -> None:
        output = open(self.folder / "driver.log", "ab")  # noqa: SIM115 - the driver writes to it
        slow = {"SPOTESM_FAULTS": f"slow={self.slow}"}
        self.driver = start_snakemake(
            self.folder, *self.arguments(), stdout=output.fileno(), **slow
        )
        output.close()

    def journal(self, shard: str) -> list[dict]:
        path = self.folder / "results/d/checkpoints" / shard / "journal.jsonl"
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in path.read_text().splitlines()]
        return []

    def shards(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "results/d/checkpoints").glob("*"))

    def starts(self, shard: str) -> list[dict]:
        return [entry for entry in self.journal(shard) if entry["event"] == "start"]

    def parts(self, shard: str) -> int:
        return len(list((self.folder / "results/d/checkpoints" / shard).glob("part-*.pt")))

    def wait_for_progress(self, shards: int, attempt: int = 1) -> None:
        """Until each shard's attempt has written a part of its own."""
        before: dict[str, int] = {}

        def progressed() -> bool:
            assert self.driver.poll() is None, (self.folder / "driver.log").read_text()
            names = self.shards()
            for shard in names:
                if len(self.starts(shard)) >= attempt:
                    before.setdefault(shard, self.parts(shard))
            return len(before) == shards and all(
                self.parts(shard) > parts for shard, parts in before.items()
            )

        wait_until(progressed, f"progress of {shards} shards, attempt {attempt}", WAIT_SECONDS)

    def finish(self, expected: Path) -> str:
        """Wait for the end, compare with the unbroken local run; what Snakemake said."""
        self.driver.wait(WAIT_SECONDS)
        said = (self.folder / "driver.log").read_text()
        assert self.driver.returncode == 0, said
        assert_same_datasets(self.folder / "results/d/embeddings.h5", expected)
        return said

    def assert_nothing_twice(self) -> None:
        """Every sequence was computed once, over all attempts of all shards."""
        ends = [entry for shard in self.shards() for entry in self.journal(shard)]
        assert sum(entry.get("computed", 0) for entry in ends) == N_SEQUENCES


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


def prepare(folder: Path, shards: int) -> None:
    write_config(folder, datasets={"d": "in.fasta"}, shards=shards, checkpoint={"sequences": 1})


@pytest.fixture
def expected(unbroken: Path) -> Path:
    return unbroken / "results/d/embeddings.h5"


@contextlib.contextmanager
def started(
    base: Path, unbroken: Path, name: str, shards: int = 3, **changes: object
) -> Iterator[Run]:
    folder = base / name
    (folder / "resources").mkdir(parents=True)
    (folder / "in.fasta").symlink_to(unbroken / "in.fasta")
    (folder / "resources/weights").symlink_to(unbroken / "resources/weights")
    prepare(folder, shards)
    run = Run(folder, **changes)
    run.start()
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.driver.pid, signal.SIGKILL)
        run.driver.wait()
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30)


def preempt(node: str) -> None:
    """Have all GPUs of a node taken by a job of higher priority, for a moment."""
    options = f"-N1 --gpus-per-node={GPUS} --mem=100 -n1 -w {node} -p high -o /dev/null".split()
    ask("sbatch", *options, "--wrap", "sleep 1")


def placement(job: str) -> tuple[str, str]:
    """The node and the GPU of a running job."""
    shown = ask("scontrol", "show", "job", "-d", job)
    return re.search(r"Nodes=(\S+) CPU_IDs.*GRES=gpu:fake:1\(IDX:(\d+)\)", shown).groups()


def test_each_job_has_a_device_of_its_own(
    cluster: Cluster, base: Path, unbroken: Path, expected: Path
) -> None:
    with started(base, unbroken, "plain", shards=6) as run:
        places: dict[str, tuple[str, str]] = {}

        def all_placed() -> bool:
            for shard in run.shards():
                if shard not in places and run.starts(shard):
                    places[shard] = placement(run.starts(shard)[0]["slurm_job"])
            return len(places) == 6

        wait_until(all_placed, "six running jobs", WAIT_SECONDS)
        said = run.finish(expected)
    assert len(set(places.values())) == 6
    assert {node for node, _ in places.values()} == {"n1", "n2"}
    seen = {shard: run.starts(shard)[0]["visible_gpus"] for shard in run.shards()}
    assert seen == {shard: gpu for shard, (_, gpu) in places.items()}
    assert "Trying to restart" not in said
    run.assert_nothing_twice()


@pytest.mark.parametrize(("partition", "times", "shards"), [("low", 1, 3), ("low", 3, 1)])
def test_preempted_jobs_requeue_themselves(
    cluster: Cluster,
    base: Path,
    unbroken: Path,
    expected: Path,
    partition: str,
    times: int,
    shards: int,
) -> None:
    name = f"{partition}{times}"
    with started(base, unbroken, name, shards=shards, partition=partition) as run:
        for attempt in range(1, times + 1):
            run.wait_for_progress(shards, attempt)
            nodes = {placement(run.starts(shard)[-1]["slurm_job"])[0] for shard in run.shards()}
            for node in nodes:
                preempt(node)
        said = run.finish(expected)
    for shard in run.shards():
        events = [entry["event"] for entry in run.journal(shard)]
        assert events == ["start", "stopped"] * times + ["start", "completed"]
        assert len({entry["slurm_job"] for entry in run.starts(shard)}) == 1
    assert "Trying to restart" not in said
    run.assert_nothing_twice()


def test_without_grace_nothing_is_lost_either(
    cluster: Cluster, base: Path, unbroken: Path, expected: Path
) -> None:
    with started(base, unbroken, "abrupt", shards=1, partition="abrupt") as run:
        run.wait_for_progress(1)
        (shard,) = run.shards()
        preempt(placement(run.starts(shard)[-1]["slurm_job"])[0])
        said = run.finish(expected)
    assert len({entry["slurm_job"] for entry in run.starts(shard)}) == 1
    assert len(run.starts(shard)) == 2
    assert "Trying to restart" not in said
    run.assert_nothing_twice()


def test_at_the_time_limit_the_work_goes_on(
    cluster: Cluster, base: Path, unbroken: Path, expected: Path
) -> None:
    # SLURM may send the signal up to a minute early.
    late = {"runtime": 1, "signal": "'--signal=TERM@45'", "slow": 2.0}
    with started(base, unbroken, "limit", shards=1, **late) as run:
        said = run.finish(expected)
    (shard,) = run.shards()
    assert [entry["event"] for entry in run.journal(shard)][1] == "stopped"
    assert "DUE TO TIME LIMIT" not in said
    run.assert_nothing_twice()


def test_jobs_that_are_cancelled_requeued_and_killed(
    cluster: Cluster, base: Path, unbroken: Path, expected: Path
) -> None:
    with started(base, unbroken, "hit") as run:
        run.wait_for_progress(3)
        cancelled, requeued, killed = run.shards()
        first = {shard: run.starts(shard)[0] for shard in run.shards()}
        ask("scancel", first[cancelled]["slurm_job"])
        ask("scontrol", "requeue", first[requeued]["slurm_job"])
        os.kill(first[killed]["pid"], signal.SIGKILL)
        run.finish(expected)
    assert run.starts(cancelled)[-1]["slurm_job"] != first[cancelled]["slurm_job"]
    assert run.starts(requeued)[-1]["slurm_job"] == first[requeued]["slurm_job"]
    assert run.starts(killed)[-1]["slurm_job"] != first[killed]["slurm_job"]
    assert [entry["event"] for entry in run.journal(killed)] == ["start", "start", "completed"]
    assert all(len(run.starts(shard)) == 2 for shard in run.shards())


def test_a_lost_node_and_a_killed_driver(
    cluster: Cluster, base: Path, unbroken: Path, expected: Path
) -> None:
    with started(base, unbroken, "lost") as run:
        run.wait_for_progress(3)
        lost = placement(run.starts(run.shards()[0])[0]["slurm_job"])[0]
        cluster.lose_node(lost)
        try:
            run.wait_for_progress(3, attempt=2)
            orphans = {shard: run.starts(shard)[-1] for shard in run.shards()}
            os.killpg(run.driver.pid, signal.SIGKILL)
            run.driver.wait()
            unlock = start_snakemake(run.folder, *run.arguments(), "--unlock")
            unlock.communicate(timeout=WAIT_SECONDS)
            run.start()
            run.finish(expected)
        finally:
            cluster.start_node(lost)
    for shard, orphan in orphans.items():
        # The orphan went on, and nobody wrote beside it.
        assert run.journal(shard)[-1]["event"] == "completed"
        later = run.starts(shard)[2:]
        assert all(entry["pid"] != orphan["pid"] for entry in later)
        assert not psutil.pid_exists(orphan["pid"])
    wait_until(lambda: cluster.count_idle() == 2, "the node's return")
