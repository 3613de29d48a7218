"""A SLURM cluster on this machine, gone without a trace.

It has sections, so that scenarios can run side by side: two nodes each, with two fake GPUs a node,
and partitions of their own, `low-a`, `abrupt-a` and `high-a` for the section `a`.
"""

import contextlib
import importlib.util
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

CONFIG = Path("/etc/slurm")  # the executor plugin drops SLURM_CONF, so it must be here
CONFIG_FILES = ("slurm.conf", "gres.conf", "cgroup.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "squeue", "scontrol", "sbatch", "scancel", "sinfo")
PLUGIN = "snakemake_executor_plugin_slurm"
NODES_PER_SECTION = 2
GPUS = 2
WAIT_SECONDS = 90.0

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0,sched_interval=2,requeue_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
KillWait=10
MessageTimeout=10
JobRequeue=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
DefMemPerCPU=100
AccountingStorageType=accounting_storage/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
"""
NODE = """\
NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=8 RealMemory=8000 \
Gres=gpu:fake:{gpus} State=UNKNOWN
"""
PARTITIONS = """\
PartitionName=low-{section} Nodes={nodes} PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=abrupt-{section} Nodes={nodes} PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high-{section} Nodes={nodes} PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str:
    """Why no cluster can be started here; empty if it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if missing:
        return f"SLURM's programs are missing: {', '.join(missing)}"
    if importlib.util.find_spec(PLUGIN) is None:
        return f"{PLUGIN} is missing; see profiles/slurm/requirements.txt"
    if os.geteuid() != 0:
        return "a cluster of one's own needs root"
    if any((CONFIG / name).exists() for name in CONFIG_FILES):
        return f"{CONFIG} is in use"
    return ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def wait_until(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait, bounded, for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.3)


def ask(*command: str) -> str:
    """What a SLURM command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Cluster:
    """Its daemons, as processes of ours in the foreground."""

    def __init__(self, folder: Path, sections: str) -> None:
        self.folder = folder
        self.nodes = {
            section: [f"{section}{i + 1}" for i in range(NODES_PER_SECTION)] for section in sections
        }
        self.base = str(folder.parent)  # jobs work below it
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        self._write_config()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = {"key-file": key} | {
            name: self.folder / f"munge.{name}"
            for name in ("socket", "pid-file", "log-file", "seed-file")
        }
        files["socket"] = self.folder / "munge.socket"
        options = [f"--{name}={path}" for name, path in files.items()]
        self._run("munged", "--force", "--foreground", *options)
        wait_until(files["socket"].exists, "munged")
        self._run("slurmctld", "-D", "-i")
        for node in itertools.chain(*self.nodes.values()):
            self.start_node(node)
        for section in self.nodes:
            self.wait_for_nodes(section)

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, name=node)

    def wait_for_nodes(self, section: str) -> None:
        """Until a section's nodes are up and free."""

        def all_idle() -> bool:
            try:
                idle = ask("sinfo", "-h", "-N", "-p", f"low-{section}", "-t", "idle", "-o", "%N")
            except subprocess.CalledProcessError:  # the controller does not answer yet
                return False
            return idle.split() == self.nodes[section]

        wait_until(all_idle, f"idle nodes in section {section}")

    def _run(self, program: str, *arguments: str, name: str = "") -> None:
        name = name or program
        with open(self.folder / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(program, path=_path()), *arguments],
                stdout=output,
                stderr=output,
                cwd=self._home(name),
                start_new_session=True,
            )

    def _home(self, name: str) -> Path:
        """Where a daemon works; what watches the steps of jobs on a node inherits that."""
        home = self.folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        return home

    def _write_config(self) -> None:
        host = socket.gethostname().partition(".")[0]
        content = SLURM_CONF.format(host=host, controller=_free_port(), folder=self.folder)
        for section, nodes in self.nodes.items():
            for node in nodes:
                content += NODE.format(node=node, host=host, port=_free_port(), gpus=GPUS)
            content += PARTITIONS.format(section=section, nodes=",".join(nodes))
        (self.folder / "slurm.conf").write_text(content)
        for gpu in range(GPUS):  # clones of /dev/null
            os.mknod(self.folder / f"gpu{gpu}", 0o20666, os.makedev(1, 3))
        gres = [
            f"NodeName={node} Name=gpu Type=fake File={self.folder}/gpu[0-{GPUS - 1}]\n"
            for node in itertools.chain(*self.nodes.values())
        ]
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(gres))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        CONFIG.mkdir(exist_ok=True)
        for name in CONFIG_FILES:
            (CONFIG / name).symlink_to(self.folder / name)

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon and all that runs on it, as a power cut would, and tell SLURM."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in self._processes(node):
            with contextlib.suppress(psutil.Error):
                process.kill()
        ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def stop(self) -> None:
        """End everything, in whatever state it is."""
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--user=root"], timeout=10, capture_output=True)
            subprocess.run(
                ["scancel", "--user=root", "--signal=KILL", "--full"],
                timeout=10,
                capture_output=True,
            )
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for name in CONFIG_FILES:
            (CONFIG / name).unlink(missing_ok=True)

    def _processes(self, node: str = "") -> list[psutil.Process]:
        """What watches the steps of jobs, and then what these run: all, or those on a node."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if process.name() == "slurmstepd":
                    home = Path(process.cwd())
                    ours = home == self._home(node) if node else self.folder in home.parents
                else:
                    ours = "SLURM_JOB_ID" in environment and self.base in process.cwd()
                    ours = ours and environment.get("SLURMD_NODENAME", "").startswith(node)
                if ours:
                    found.append(process)
        return sorted(found, key=lambda process: process.name() != "slurmstepd")


@contextlib.contextmanager
def running_cluster(folder: Path, sections: str) -> Iterator[Cluster]:
    """A cluster with a section for each letter, for as long as the block lasts."""
    cluster = Cluster(folder, sections)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
