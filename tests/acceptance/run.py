"""What this project cannot prove on its own machines: `make acceptance`, with a network or a GPU.

One line a check: passed, FAILED, or not possible here, and why. Runs of the workflow are what a
user would type. Ends with status 1 if a check failed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from spotesm.merged.reader import Embeddings

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "resources/demo.fasta"
MODEL = "esm2_t6_8M_UR50D"
ON_THE_HUB = f"hf:facebook/{MODEL}"
ESMC = "esmc_300m"
FIRST_RELEASE = "hf:biohub/esmc-300m-2024-12"
PASSED, FAILED, NOT_HERE = "passed", "FAILED", "not possible here"
NO_NETWORK = ("cannot download", "cannot be had from the hub", "needs huggingface_hub")
NEAR = 1e-5  # float32, of values of a few units
# Relative root mean square of what half precision loses, on untrained weights.
LOSSES = {"float16": 2e-3, "bfloat16": 2e-2}
GIBIBYTES = {
    **{MODEL: 1, "esm2_t30_150M_UR50D": 4, "esm2_t33_650M_UR50D": 8, "esm2_t36_3B_UR50D": 24},
    **{"esmc_300m": 4, "esmc_600m": 8, "esmc_6b": 48},
}
# How many proteins: so many that the fastest takes some seconds, and fair-esm not minutes.
BENCHMARKS = {
    **{"esm2_t30_150M_UR50D": 2000, "esm2_t33_650M_UR50D": 1000, "esm2_t36_3B_UR50D": 250},
    **{"esmc_300m": 1000, "esmc_600m": 500},
}


class NotPossibleError(Exception):
    """What a check needs is not here."""


@dataclass(frozen=True)
class Verdict:
    """What came of a check."""

    check: str
    result: str
    detail: str
    seconds: float


def judge(name: str, check: Callable[[], str]) -> Verdict:
    """Run a check, which returns what it saw or raises."""
    start = time.monotonic()
    try:
        result, detail = PASSED, check()
    except NotPossibleError as error:
        result, detail = NOT_HERE, str(error)
    except Exception as error:  # a check that breaks is a check that fails
        result, detail = FAILED, f"{type(error).__name__}: {error}"
    return Verdict(name, result, detail, round(time.monotonic() - start, 1))


def run(*arguments: str | Path, **environment: str) -> str:
    """Run a command of this project, and return what it printed.

    Raises:
        RuntimeError: it failed; with its last lines.
    """
    env = {**os.environ, **environment}
    line = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(line, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    printed = ended.stdout + ended.stderr
    if ended.returncode:
        if why := next((said for said in NO_NETWORK if said in printed), None):
            line = next(line for line in printed.splitlines() if why in line)
            raise NotPossibleError(" ".join(line.split())[:200])
        raise RuntimeError("\n".join(printed.splitlines()[-8:]))
    return printed


def embed(
    folder: Path, weights: str, *snakemake: str, model: str = MODEL, **environment: str
) -> Path:
    """Embed the demo as a user does, and return the file."""
    command = ("-m", "spotesm", "embed", DEMO, "--model", model, "--weights", weights)
    options = ("--directory", folder, "--", "--resources", "gpu=1", *snakemake)
    run(*command, *options, **environment)
    return folder / "results/demo/embeddings.h5"


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the vector of each protein."""
    with Embeddings(path) as embeddings:
        return dict(zip(embeddings.ids, embeddings[:], strict=True))


def distance(path: Path, other: Path) -> float:
    """Return how far apart two files are at most; infinite if they have other proteins."""
    mine, theirs = read(path), read(other)
    if mine.keys() != theirs.keys() or not mine:
        return np.inf
    return max(float(np.abs(mine[name] - theirs[name]).max()) for name in mine)


# -- the network -----------------------------------------------------------------------------------


def check_download(folder: Path, weights: str, model: str = MODEL) -> str:
    """The rule that fetches them compares with what is known of this model."""
    path = embed(folder, weights, model=model)
    return f"{len(read(path))} proteins; the numbers that are known of this model"


def check_both_ways(one: Path, other: Path) -> str:
    """The same model in two formats."""
    if not (one.exists() and other.exists()):
        raise NotPossibleError("not both could be fetched")
    apart = distance(one, other)
    assert apart <= NEAR, f"{apart:.2g} apart"
    return f"{apart:.1g} apart at most"


# -- engines and resuming --------------------------------------------------------------------------


def check_engines(folder: Path) -> str:
    """Both engines, and fair-esm one sequence at a time."""
    path = embed(folder / "packed", "untrained")
    reference = embed(folder / "reference", "untrained", "--config", "model={engine: reference}")
    apart = distance(path, reference)
    half = torch.cuda.is_available()  # the engines may round in other places
    assert apart <= (LOSSES["bfloat16"] if half else NEAR), f"{apart:.2g} apart"
    run("-m", "spotesm", "verify", path, DEMO, "--rows", "5")
    return f"{apart:.1g} apart at most; verify agrees"


def check_resume(folder: Path) -> str:
    """Stopped after every batch, the run ends with the bits of one that was left alone."""
    small = ("--set-resources", "embed_shard:tokens_per_batch=1100")
    whole = embed(folder / "whole", "untrained", *small)
    again = embed(folder / "again", "untrained", *small)
    assert distance(whole, again) == 0, "two runs differ"
    stopped = embed(
        folder / "stopped", "untrained", *small, "--retries", "30", SPOTESM_FAULTS="stopped@2"
    )
    assert distance(whole, stopped) == 0, "what was resumed differs"
    journals = (folder / "stopped").rglob("journal.jsonl")
    stops = sum(path.read_text().count('"stopped"') for path in journals)
    assert stops > 1, "it was never stopped"
    return f"the same bits on repetition, and after {stops} stops"


# -- a GPU -----------------------------------------------------------------------------------------


def need_gpu(gibibytes: float = 0) -> None:
    """Raise `NotPossibleError` without a GPU of this size."""
    if not torch.cuda.is_available():
        raise NotPossibleError("no GPU")
    has = torch.cuda.get_device_properties(0).total_memory / 2**30
    if has < gibibytes:
        raise NotPossibleError(f"needs a GPU of {gibibytes} GiB; this has {has:.0f}")


def check_gpu_tests() -> str:
    """fair-esm's numbers, memory that is really too little, attention of each kind."""
    need_gpu()
    printed = run("-m", "pytest", "-q", "tests/model/test_gpu.py", "tests/model/test_attention.py")
    return printed.splitlines()[-1]


def check_precision(model: str, precision: str) -> str:
    """Half precision against float32, all outputs, in a process of its own."""
    need_gpu(GIBIBYTES[model])
    losses = json.loads(run(Path(__file__).with_name("losses.py"), model, precision))
    worst = max(losses, key=losses.get)
    # More layers, and a gate that multiplies what was rounded.
    most = LOSSES[precision] * (2 if model.startswith("esmc") else 1)
    assert losses[worst] <= most, f"{worst} loses {losses[worst]:.2g}"
    return f"{worst} loses {losses[worst]:.1g} of its root mean square"


def check_speed(model: str, folder: Path) -> str:
    """Against fair-esm and Hugging Face, whose batches are as large as suits them."""
    need_gpu(GIBIBYTES[model])
    path = folder / f"{model}.json"
    run(
        *("benchmarks/throughput.py", "--device", "cuda", "--model", model),
        *("--precision", "bfloat16", "--sequences", str(BENCHMARKS[model]), "--json", path),
    )
    contestants = json.loads(path.read_text())["contestants"]
    speed = contestants.pop("spotesm")["tokens_per_s"]
    ratios = {name: sorted(c["spotesm_is_faster_by"])[1] for name, c in contestants.items()}
    faster = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items())
    return f"{speed:,.0f} tokens/s, {faster}"


def all_checks(folder: Path) -> dict[str, Callable[[], str]]:
    """Name every check, in the order in which they run."""
    ways = {"pretrained": folder / "fair-esm", ON_THE_HUB: folder / "hub"}
    files = [place / "results/demo/embeddings.h5" for place in ways.values()]
    esmc = {"pretrained": folder / "esmc", FIRST_RELEASE: folder / "esmc-2024"}
    esmc_files = [place / "results/demo/embeddings.h5" for place in esmc.values()]
    return {
        **{f"weights: {w}": partial(check_download, place, w) for w, place in ways.items()},
        "both are one model": partial(check_both_ways, *files),
        **{
            f"weights: {w} of {ESMC}": partial(check_download, place, w, ESMC)
            for w, place in esmc.items()
        },
        "both releases are one model": partial(check_both_ways, *esmc_files),
        "both engines agree on the demo": partial(check_engines, folder / "engines"),
        "resumed as if never stopped": partial(check_resume, folder / "resume"),
        "tests on the GPU": check_gpu_tests,
        **{
            f"{precision} of {model}": partial(check_precision, model, precision)
            for model in GIBIBYTES
            for precision in LOSSES
        },
        **{f"speed of {model}": partial(check_speed, model, folder) for model in BENCHMARKS},
    }


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the verdicts there.")
def main(path: Path | None) -> None:
    """Run all checks; print a table."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="spotesm-acceptance-") as folder:
        verdicts = []
        for name, check in all_checks(Path(folder)).items():
            with console.status(name):
                verdicts.append(judge(name, check))
    table = Table("check", "result", "seen", "s")
    for verdict in verdicts:
        table.add_row(verdict.check, verdict.result, verdict.detail, f"{verdict.seconds:.0f}")
    Console(width=140 if not sys.stdout.isatty() else None).print(table)
    if path:
        path.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=2) + "\n")
    sys.exit(any(verdict.result == FAILED for verdict in verdicts))


if __name__ == "__main__":
    main()
