"""ESM C by the commands that users type, against transformers; a small one, of its arithmetic."""

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from models import make_esmc
from sequences import random_sequence, write_fasta
from snakemake_runs import REPOSITORY, spotesm
from spotesm.merged.reader import Embeddings
from spotesm.sequences.alphabet import name_tokens, tokenise
from spotesm.weights.architectures import Architecture

transformers = pytest.importorskip("transformers")

HELPERS = REPOSITORY / "tests/helpers/small_models"
SMALL = Architecture(3, 128, 2, "esmc", has_regression=False)  # as sitecustomize.py there has it
OWN = ("--model", "esmc_300m", "--weights", "model")
# Batches of a few sequences, and a part after each.
SMALL_STEPS = (
    *("--", "--config", "checkpoint={sequences: 1}"),
    *("--set-resources", "embed_shard:tokens_per_batch=300"),
)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return spotesm(folder, *arguments, python_path=[HELPERS], **environment)


def counts_of(folder: Path, dataset: str) -> tuple[int, int, int]:
    summary = json.loads((folder / f"results/{dataset}/summary.json").read_text())
    return tuple(summary[name] for name in ("n_reused", "n_resumed", "n_computed"))


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(31)
    # Longer than ESM-2's window, and short of ESM C's.
    return [(f"p{i}", random_sequence(rng, 20 + 10 * i)) for i in range(14)] + [
        ("long", random_sequence(rng, 1400))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("esmc")
    write_fasta(folder / "d.fasta", records)
    torch.manual_seed(31)
    make_esmc(SMALL).save_pretrained(folder / "model")
    return folder


def computed(folder: Path, sequence: str) -> dict[str, np.ndarray]:
    """What transformers gives for a protein, by our keys."""
    model = transformers.EsmcForMaskedLM.from_pretrained(folder / "model").eval()
    tokens = torch.from_numpy(tokenise(sequence.encode())).long()[None]
    with torch.inference_mode():
        result = model(tokens, output_hidden_states=True)
    values = {"logits/values": result.logits[0, 1:-1].numpy()}
    for layer in (0, SMALL.layers):
        hidden = result.hidden_states[layer][0, 1:-1].numpy()
        values |= {f"residues/{layer}": hidden, f"mean/{layer}": hidden.mean(0)}
    return values


def test_killed_and_resumed_it_gives_transformers_numbers(
    folder: Path, records: list[tuple[str, str]]
) -> None:
    asked = ("embed", "d.fasta", *OWN, "--outputs", "mean,residues,logits", "--layers", "0,-1")
    killed = run(folder, *asked, *SMALL_STEPS, "--retries", "0", SPOTESM_FAULTS="killed@4")
    assert killed.returncode == 1
    assert list(folder.glob("results/d/checkpoints/*/part-*.pt"))
    ended = run(folder, *asked, *SMALL_STEPS)
    assert ended.returncode == 0, ended.stderr
    reused, resumed, anew = counts_of(folder, "d")
    assert (reused, resumed + anew) == (0, len(records))
    assert resumed > 0 < anew

    with Embeddings(folder / "results/d/embeddings.h5") as embeddings:
        assert embeddings.attributes["model"] == "esmc_300m"
        assert json.loads(embeddings.attributes["long_sequences"])["window"] == 2046
        assert embeddings.file["windows"][:].tolist() == [1] * len(records)
        for name, sequence in (records[0], records[7], records[-1]):
            for key, values in computed(folder, sequence).items():
                found = embeddings.value(key, name)
                assert found.shape == values.shape
                assert np.abs(found - values).max() <= 2e-5 * np.abs(values).max(), (key, name)
    report = (folder / "results/d/report.html").read_text()
    assert "ESM Cambrian" in report
    assert "MIT since 2026" in report

    checked = run(folder, "verify", "results/d/embeddings.h5", "d.fasta", "--rows", "3")
    assert checked.returncode == 0, checked.stderr
    assert "3 rows recomputed by transformers: at most" in checked.stdout
    exported = run(folder, "export", "pt", "results/d/embeddings.h5", "pt")
    assert exported.returncode == 0, exported.stderr
    content = torch.load(folder / "pt/long.pt", weights_only=True)
    assert content["logits"].shape == (1400, 64)
    assert content["alphabet"] == name_tokens(64)


def test_fewer_outputs_are_taken_from_what_is_there(
    folder: Path, records: list[tuple[str, str]]
) -> None:
    asked = ("embed", "d.fasta", *OWN, "--name", "e", "--outputs", "mean", "--layers", "-1")
    ended = run(folder, *asked, "--reuse", "d")
    assert ended.returncode == 0, ended.stderr
    assert counts_of(folder, "e") == (len(records), 0, 0)
    paths = [folder / f"results/{name}/embeddings.h5" for name in "de"]
    with Embeddings(paths[0], "mean/3") as one, Embeddings(paths[1]) as two:
        np.testing.assert_array_equal(one[:], two[:])


def test_reading_frames_of_contigs(folder: Path) -> None:
    rng = random.Random(32)
    contig = "".join(rng.choices("ACGT", k=900))
    (folder / "c.fna").write_text(f">contig\n{contig}\n")
    asked = ("--model", "esmc_300m", "--weights", "untrained", "--nucleotide")
    ended = run(folder, "embed", "c.fna", *asked)
    assert ended.returncode == 0, ended.stderr
    with Embeddings(folder / "results/c/embeddings.h5") as embeddings:
        assert len(embeddings) > 3
        assert embeddings[:].shape[1] == SMALL.embedding_dim
    checked = run(folder, "verify", "results/c/embeddings.h5", "results/c/orfs.fasta")
    assert checked.returncode == 0, checked.stderr
    assert "5 rows recomputed by transformers" in checked.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--outputs", "contacts"), "contacts: esmc_300m has no contact regression"),
        (("--weights", "pretrained", "--layers", "31"), "esmc_300m has layers 0 to 3"),
    ],
)
def test_what_it_has_not_is_said_at_once(folder: Path, asked: tuple[str, ...], said: str) -> None:
    ended = run(folder, "embed", "d.fasta", "--model", "esmc_300m", *asked)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert said in line
