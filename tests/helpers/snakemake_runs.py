"""Real runs of the workflow in a folder of their own."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.01


def link_weights(folder: Path, manifest: Path) -> None:
    """Let the untrained 8M weights already be there: few runs are about fetching them."""
    weights = folder / "resources/weights/untrained"
    weights.mkdir(parents=True)
    (weights / "esm2_t6_8M_UR50D.json").symlink_to(manifest)


def write_config(folder: Path, **keys: object) -> Path:
    """A config over the untrained 8M model; `keys` are its other top-level keys."""
    config = {"model": {"name": "esm2_t6_8M_UR50D", "weights": "untrained"}, **keys}
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _command(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    snakefile = ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *snakefile, "--nocolor", *arguments]


def _environment(folder: Path) -> dict[str, str]:
    # Nothing may be left outside the folder.
    return {**os.environ, "XDG_CACHE_HOME": str(folder / ".cache"), "TMPDIR": str(folder)}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Snakemake to its end; its output is `stdout`."""
    with running_snakemake(folder, *arguments) as process:
        output, _ = process.communicate(timeout=WAIT_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def spotesm(
    folder: Path, *arguments: str, python_path: Sequence[Path] = (), **environment: str
) -> subprocess.CompletedProcess:
    """Run a command in a folder to its end, as a user types it."""
    path = os.pathsep.join(map(str, [*python_path, REPOSITORY / "workflow_scripts"]))
    return subprocess.run(
        [sys.executable, "-m", "spotesm", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**_environment(folder), "PYTHONPATH": path, **environment},
        timeout=WAIT_SECONDS,
    )


def start_spotesm(
    folder: Path,
    *arguments: str,
    file_size: int = resource.RLIM_INFINITY,
    **environment: str,
) -> subprocess.Popen:
    """Start a command in a process group of its own; what it says goes to `said.txt`.

    No file may grow beyond `file_size` bytes.
    """
    library = {"PYTHONPATH": str(REPOSITORY / "workflow_scripts")}
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "spotesm", *arguments],
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**_environment(folder), **library, **environment},
            start_new_session=True,
            preexec_fn=lambda: _prepare(file_size),
        )


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait for a condition that comes true while a process runs."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(POLL_SECONDS)


def start_snakemake(
    folder: Path,
    *arguments: str,
    stdout: int = subprocess.PIPE,
    file_size: int = resource.RLIM_INFINITY,
    **environment: str,
) -> subprocess.Popen:
    """Start Snakemake in a process group of its own; no file may grow beyond `file_size` bytes."""
    return subprocess.Popen(
        _command(folder, arguments),
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**_environment(folder), **environment},
        start_new_session=True,
        preexec_fn=lambda: _prepare(file_size),
    )


def _prepare(file_size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def running_snakemake(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """Start Snakemake; afterwards nothing of it is left."""
    process = start_snakemake(folder, *arguments)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def interrupt_when(
    folder: Path, condition: Callable[[], object], number: signal.Signals, *arguments: str
) -> str:
    """Run Snakemake, signal its whole group once the condition holds; its output."""
    with running_snakemake(folder, *arguments) as process:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if process.poll() is not None:
                raise AssertionError(f"it ended before:\n{process.stdout.read()}")
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(POLL_SECONDS)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode != 0
    return output
