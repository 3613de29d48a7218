"""Where runs meet in one folder: nothing replaced or stale, nothing locked; signals arrive."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import h5py
import numpy as np
import psutil
import pytest
from sequences import random_sequence, write_fasta
from shards import assert_same_datasets
from slurm_stubs import install_slurm_stubs
from snakemake_runs import (
    WAIT_SECONDS,
    link_weights,
    snakemake,
    spotesm,
    start_spotesm,
    wait_until,
    write_config,
)
from spotesm.merged.reader import Embeddings

Reference = Callable[[str], np.ndarray]
UNTRAINED = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
OTHER_MODEL = ("--model", "esm2_t12_35M_UR50D", "--weights", "untrained")
NOTHING_TO_DO = "Nothing to be done"


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(26)
    return [(f"p{i}", random_sequence(rng, rng.randint(5, 40))) for i in range(9)]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    weights_manifest: Path,
    records: list[tuple[str, str]],
) -> Path:
    """A folder in which two.fasta was embedded."""
    folder = tmp_path_factory.mktemp("finished")
    link_weights(folder, weights_manifest)
    write_fasta(folder / "two.fasta", records)
    embed(folder, "two.fasta", *UNTRAINED)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, elsewhere."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def embed(folder: Path, *arguments: str) -> str:
    """Embed to the end; what it said."""
    run = spotesm(folder, "embed", *arguments)
    assert run.returncode == 0, run.stderr
    return run.stderr


def result(folder: Path, dataset: str = "two") -> Path:
    return folder / f"results/{dataset}/embeddings.h5"


def assert_rows(
    path: Path, records: list[tuple[str, str]], reference: Reference, key: str = "mean/6"
) -> None:
    with Embeddings(path, key) as embeddings:
        assert list(embeddings.ids) == [name for name, _ in records]
        expected = np.stack([reference(sequence).mean(0) for _, sequence in records])
        np.testing.assert_allclose(embeddings[:], expected, rtol=0, atol=1e-5)


def state_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below results, by date and content, but for the lock."""
    files = (path for path in sorted((folder / "results").rglob("*")) if path.is_file())
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in files if f.name != "run.lock"}


# -- replaced, or stale ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("two.fasta", *OTHER_MODEL), "its model is esm2_t6_8M_UR50D"),
        (("two.fasta", *UNTRAINED, "--layers", "3"), "it holds mean/6"),
        (("other/two.fasta", *UNTRAINED), "it has records of two.fasta"),
        (("two.fna", "--nucleotide", *UNTRAINED), "read as alphabet protein"),
    ],
)
def test_nothing_is_replaced_unasked(
    folder: Path, records: list[tuple[str, str]], arguments: tuple[str, ...], said: str
) -> None:
    """Whatever Snakemake remembers: here it has forgotten everything."""
    shutil.rmtree(folder / ".snakemake")
    (folder / "other").mkdir()
    write_fasta(folder / "other/two.fasta", records[1:])
    write_fasta(folder / "two.fna", [("c", "ATGAAA" * 40)])
    before = state_of(folder)
    run = spotesm(folder, "embed", *arguments)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("results/two/embeddings.h5 has a finished result")
    for words in (said, "--name", "--replace", "replace: true"):
        assert words in line
    assert state_of(folder) == before


def test_a_line_typed_by_hand_replaces_nothing_either(folder: Path) -> None:
    before = state_of(folder)
    config = write_config(
        folder,
        datasets={"two": "two.fasta"},
        model={"name": OTHER_MODEL[1], "weights": "untrained"},
    )
    run = snakemake(folder, "--cores", "2", "--configfile", str(config))
    assert run.returncode == 1
    assert "its model is esm2_t6_8M_UR50D; asked for is esm2_t12_35M_UR50D" in run.stdout
    assert state_of(folder) == before


def test_what_is_done_is_done_wherever_and_whenever(folder: Path) -> None:
    """Without Snakemake's memory, and with dates that say nothing."""
    shutil.rmtree(folder / ".snakemake")
    rng = random.Random(1)
    for path in (folder / "results").rglob("*"):
        os.utime(path, (rng.randrange(10**9),) * 2)
    before = state_of(folder)
    said = embed(folder, "two.fasta", *UNTRAINED)
    assert NOTHING_TO_DO in said
    assert "results/two/embeddings.h5: 9 rows" in said
    assert state_of(folder) == before


def test_more_is_added_to_what_is_there(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """Records before, between and behind; an output; Snakemake has forgotten everything."""
    with h5py.File(result(folder)) as file:
        before = dict(zip(file["sequence_ids"][:], file["mean/6"][:], strict=True))
    shutil.rmtree(folder / ".snakemake")
    more = [("new0", "MKVLA"), *records[:4], ("new1", "MKVW"), *records[4:], ("new2", "MKY")]
    write_fasta(folder / "two.fasta", more)
    embed(folder, "two.fasta", *UNTRAINED, "--outputs", "mean,bos")
    assert_rows(result(folder), more, reference_residues)
    with h5py.File(result(folder)) as file:
        rows = dict(zip(file["sequence_ids"][:], file["mean/6"][:], strict=True))
        assert file["bos/6"].shape == (12, 320)
    for name, row in before.items():
        assert rows[name].tobytes() == row.tobytes()
    assert not (folder / "results/two/embeddings.earlier.h5").exists()
    assert NOTHING_TO_DO in embed(folder, "two.fasta", *UNTRAINED, "--outputs", "mean,bos")


def test_replaced_when_told(
    folder: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    write_fasta(folder / "two.fasta", records[3:6])
    embed(folder, "two.fasta", *UNTRAINED, "--replace")
    assert_rows(result(folder), records[3:6], reference_residues)


def test_a_merge_that_fails_leaves_the_earlier_result(
    folder: Path, records: list[tuple[str, str]]
) -> None:
    """More records, but they may not be rejected as they are when they are embedded."""
    write_fasta(folder / "two.fasta", [*records, ("long", "MKV" * 20)])
    config = write_config(
        folder,
        datasets={"two": "two.fasta"},
        long_sequences={"policy": "reject", "window": 50},
        max_rejected=0,
    )
    before = result(folder).read_bytes()
    run = snakemake(folder, "--cores", "2", "--configfile", str(config), "--retries", "0")
    assert run.returncode == 1
    assert "rejected" in run.stdout
    assert result(folder).read_bytes() == before


# -- locked, or deaf -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, weights_manifest: Path) -> Path:
    """The folder of an unbroken run that takes some seconds, in many batches."""
    folder = tmp_path_factory.mktemp("many")
    link_weights(folder, weights_manifest)
    rng = random.Random(4)
    write_fasta(folder / "d.fasta", [(f"p{i}", random_sequence(rng, 200)) for i in range(300)])
    embed(folder, *SLOWLY)
    return folder


SLOWLY = (
    *("d.fasta", *UNTRAINED, "--", "results/d/embeddings.h5", "--cores", "1"),
    *("--config", 'checkpoint={"sequences": 4}', "shards=1"),
    *("--set-resources", "embed_shard:tokens_per_batch=900"),
)


@pytest.fixture
def fresh(many: Path, tmp_path: Path, weights_manifest: Path) -> Path:
    """A folder with its input."""
    link_weights(tmp_path, weights_manifest)
    shutil.copy(many / "d.fasta", tmp_path)
    return tmp_path


@contextmanager
def embedding(folder: Path, **environment: str) -> Iterator[Popen]:
    """Start to embed, with the brake on; yield when there are parts; nothing is left afterwards."""
    (folder / "brake").write_text("0.3")
    faults = {"SPOTESM_FAULTS": f"brake={folder / 'brake'}"}
    process = start_spotesm(folder, "embed", *SLOWLY, **faults, **environment)
    try:
        wait_until(lambda: len(parts_of(folder)) > 1, process)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/d/checkpoints/*/part-*.pt"))


def last_event(folder: Path) -> dict:
    (journal,) = folder.glob("results/d/checkpoints/*/journal.jsonl")
    return json.loads(journal.read_text().splitlines()[-1])


def family_of(process: Popen) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
@pytest.mark.parametrize("whom", ["the parent", "all"])
def test_signals_arrive_and_the_same_command_goes_on(
    many: Path, fresh: Path, number: signal.Signals, code: int, whom: str
) -> None:
    """To the parent alone (`docker stop`, systemd, kill), and to all (a terminal); twice."""
    with embedding(fresh) as process:
        family = family_of(process)
        for _ in range(2):
            if whom == "all":
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == code
        assert not psutil.wait_procs(family, timeout=0)[1]  # it ends last
    assert last_event(fresh)["event"] == "stopped"
    assert last_event(fresh)["computed"] > 0
    assert not result(fresh, "d").exists()
    embed(fresh, *SLOWLY)
    assert_same_datasets(result(fresh, "d"), result(many, "d"))


def test_somebody_s_own_job_is_left_alone(fresh: Path) -> None:
    """Ctrl-C within `salloc` or `sbatch` is no wish to have that job run again."""
    stubs = install_slurm_stubs(fresh / "slurm")
    with embedding(fresh, **stubs, SLURM_JOB_ID="42") as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 130
    assert last_event(fresh)["event"] == "stopped"
    calls = fresh / "slurm/calls"  # Snakemake's plugin looks at the cluster, too
    assert not calls.exists() or set(calls.read_text().splitlines()) == {"scontrol show config"}


@pytest.mark.parametrize("whom", ["the parent", "snakemake", "all"])
def test_a_dead_run_stops_nobody(many: Path, fresh: Path, whom: str) -> None:
    with embedding(fresh) as process:
        family = family_of(process)
        if whom == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            (process if whom == "the parent" else family[1]).send_signal(signal.SIGKILL)
        embed(fresh, *SLOWLY)
        assert not psutil.wait_procs(family, timeout=WAIT_SECONDS)[1]
    assert_same_datasets(result(fresh, "d"), result(many, "d"))


def test_two_runs_at_once(
    many: Path, fresh: Path, records: list[tuple[str, str]], reference_residues: Reference
) -> None:
    """Of other datasets both finish; of the same one the second is told who is at work."""
    shutil.rmtree(fresh / "resources")  # the weights are looked at by both
    write_fasta(fresh / "other.fasta", records)
    with embedding(fresh) as process:
        embed(fresh, "other.fasta", *UNTRAINED)
        assert process.poll() is None, "it was to be at work all the time"
        config = fresh / "results/d/config.yaml"
        run = snakemake(fresh, "--cores", "1", "--configfile", str(config), "--nolock")
        assert run.returncode == 1
        who = json.loads((fresh / "results/d/run.json").read_text())
        assert f"process {who['pid']} on {who['host']}, since {who['since']}" in run.stdout
        (fresh / "brake").unlink()
        assert process.wait(WAIT_SECONDS) == 0
    assert_rows(result(fresh, "other"), records, reference_residues)
    assert_same_datasets(result(fresh, "d"), result(many, "d"))
