"""`spotesm embed` and `spotesm plan`, as users type them."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, spotesm
from spotesm.merged.reader import Embeddings

UNTRAINED = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
NEWS = "Using workflow specific profile"


def lines_of(text: str) -> list[str]:
    """What is on the screen, but for Snakemake's word on its profile."""
    return [line for line in text.splitlines() if not line.startswith(NEWS)]


@pytest.fixture
def fasta(folder: Path) -> Path:
    path = folder / "my proteins.fasta"
    path.write_text(">a\nMKV\n>b\nMKLV\n>c\nMKV\n")
    return path


def test_one_command_embeds_and_can_be_repeated(folder: Path, fasta: Path) -> None:
    run = spotesm(folder, "embed", fasta.name, *UNTRAINED, "--layers", "0,-1")
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    command, *said = lines_of(run.stderr)
    results = "results/my-proteins"
    assert re.search(
        rf"-m snakemake --nolock --configfile {results}/config.yaml --logger spotesm", command
    )
    end = rf"{results}/embeddings.h5: 3 rows of 320 dimensions \(0 records rejected\), computed .*"
    assert re.fullmatch(end, said[-2])
    assert said[-1] == f"report: {results}/report.html"
    assert len(said) == 2
    with Embeddings(folder / f"{results}/embeddings.h5") as embeddings:
        assert list(embeddings.ids) == ["a", "b", "c"]
        assert list(embeddings.outputs) == ["mean/0", "mean/6"]
    # The same command, and the file that it wrote, find all done.
    again = spotesm(folder, "embed", fasta.name, *UNTRAINED, "--layers", "0,-1")
    assert again.returncode == 0
    _, nothing, *said_again = lines_of(again.stderr)
    assert nothing.startswith("Nothing to be done")
    assert said_again == said
    by_file = snakemake(folder, "--cores", "1", "--configfile", f"{results}/config.yaml")
    assert "\n".join([nothing, *said]) in by_file.stdout


@pytest.mark.processor
def test_bfloat16_on_the_processor_of_this_machine(
    folder: Path, reference_residues: Callable[[str], np.ndarray]
) -> None:
    """The engine's products are another way where oneDNN has none; the values are as near."""
    rng = random.Random(3)
    records = [(f"p{i}", random_sequence(rng, length)) for i, length in enumerate((1, 40, 300, 41))]
    write_fasta(folder / "in.fasta", records)
    options = ("--", "--config", "precision=bfloat16", "--until", "merge_shards")
    run = spotesm(folder, "embed", "in.fasta", *UNTRAINED, *options)
    assert run.returncode == 0, run.stderr
    with Embeddings(folder / "results/in/embeddings.h5") as embeddings:
        means = np.stack([embeddings[name] for name, _ in records]).astype(float)
    expected = np.stack([reference_residues(sequence).mean(0) for _, sequence in records])
    sizes = np.linalg.norm(means, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((means * expected).sum(axis=1) / sizes >= 0.999).all()
    assert (np.abs(means - expected).max(axis=1) > 1e-5).all()  # it was not float32


def test_each_file_is_embedded_in_another_folder(folder: Path, fasta: Path) -> None:
    (folder / "elsewhere").mkdir()
    other = folder / "elsewhere/other.fa"
    other.write_text(">z\nMMM\n")
    given = ("embed", f"../{fasta.name}", "other.fa", "--each", "--directory", "..", *UNTRAINED)
    run = spotesm(folder / "elsewhere", *given)
    assert run.returncode == 0, run.stderr
    assert [line for line in lines_of(run.stderr) if line.startswith("report: ")] == [
        "report: results/my-proteins/report.html",
        "report: results/other/report.html",
    ]
    with Embeddings(folder / "results/other/embeddings.h5") as embeddings:
        assert list(embeddings.ids) == ["z"]


def test_errors_are_the_last_on_the_screen(folder: Path, fasta: Path) -> None:
    fasta.write_text("MKV\n")
    run = spotesm(folder, "embed", fasta.name, *UNTRAINED, "--", "--retries", "0")
    assert run.returncode == 1
    why = "my proteins.fasta, line 1: not FASTA; the first line with text must begin with '>'"
    assert lines_of(run.stderr)[1:] == [
        f"split_fasta of my-proteins failed: {why}",
        "spotESM could not finish:",
        f"  {why}",
        "    in split_fasta of my-proteins",
        "    log: results/my-proteins/logs/split_fasta.log",
    ]


def test_a_dry_run_leaves_no_results(folder: Path, fasta: Path) -> None:
    run = spotesm(folder, "embed", fasta.name, *UNTRAINED, "--dry-run")
    assert run.returncode == 0
    assert "This was a dry-run" in run.stdout + run.stderr
    assert not (folder / "results").exists()


def test_the_plan_of_a_wrong_config(folder: Path, fasta: Path) -> None:
    """Of a right one: test_reuse."""
    (folder / "wrong.yaml").write_text(f"datasets: {fasta.name}\nshrads: 2\n")
    run = spotesm(folder, "plan", "--configfile", "wrong.yaml")
    assert run.returncode == 1
    assert run.stdout == ""
    assert lines_of(run.stderr)[1:] == [
        "config: top level: 'shrads' is no key there; did you mean 'shards'?"
    ]
