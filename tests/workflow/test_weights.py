"""Weights as users have them, through the workflow, against what their own library computes."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import add_repository, esm_config
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, write_config
from spotesm.merged.reader import Embeddings
from spotesm.sequences.alphabet import tokenise
from spotesm.weights.architectures import ARCHITECTURES

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

MODEL = "esm2_t6_8M_UR50D"
COMMIT = "ef" * 20
EMBEDDINGS = "results/d/embeddings.h5"
RUN = ("--cores", "all", "--resources", "gpu=1", "--configfile")


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    rng = random.Random(17)
    return [(f"p{i}", random_sequence(rng, rng.randint(1, 80))) for i in range(8)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub: a model in several files, and an adapter that was trained on it."""
    torch.manual_seed(17)
    cache = tmp_path_factory.mktemp("hub")
    for name in ("lab/model", "lab/adapter"):
        add_repository(cache, name, COMMIT)
    model = transformers.EsmForMaskedLM(esm_config(ARCHITECTURES[MODEL]))
    model.save_pretrained(snapshot(cache, "model"), max_shard_size="10MB")
    assert len(list(snapshot(cache, "model").glob("*.safetensors"))) > 2
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value", "dense"])
    adapted = peft.get_peft_model(model, lora)
    with torch.no_grad():  # B is zero before training
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapted.save_pretrained(snapshot(cache, "adapter"))
    return cache


def snapshot(cache: Path, name: str) -> Path:
    return cache / f"models--lab--{name}" / "snapshots" / COMMIT


@pytest.fixture(scope="module")
def expected(hub: Path, records: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """The means by transformers and peft, one sequence at a time."""
    model = transformers.EsmForMaskedLM.from_pretrained(snapshot(hub, "model"))
    model = peft.PeftModel.from_pretrained(model, snapshot(hub, "adapter")).merge_and_unload()
    means = {}
    with torch.inference_mode():
        for name, sequence in records:
            tokens = torch.from_numpy(tokenise(sequence.encode())).long()[None]
            means[name] = model.eval().esm(tokens).last_hidden_state[0, 1:-1].mean(0).numpy()
    return means


def assert_means(folder: Path, expected: dict[str, np.ndarray]) -> str:
    """Compare all rows; return what the file calls its weights."""
    with Embeddings(folder / EMBEDDINGS) as embeddings:
        assert sorted(embeddings.ids) == sorted(expected)
        for name, mean in expected.items():
            np.testing.assert_allclose(embeddings[name], mean, rtol=0, atol=1e-5)
        return embeddings.attributes["weights"]


def embed(folder: Path, *arguments: str, **keys: object) -> str:
    config = write_config(folder, datasets={"d": "in.fasta"}, shards=1, **keys)
    run = snakemake(folder, EMBEDDINGS, *RUN, str(config), *arguments)
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_names_of_the_hub(
    tmp_path: Path,
    hub: Path,
    records: list[tuple[str, str]],
    expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_fasta(tmp_path / "in.fasta", records)
    embed(tmp_path, model={"name": MODEL, "weights": "hf:lab/model", "adapter": "hf:lab/adapter"})
    named = assert_means(tmp_path, expected)
    assert named == f"hf:lab/model@{COMMIT} + hf:lab/adapter@{COMMIT}"


def test_folders_with_prepared_weights_elsewhere(
    tmp_path: Path, hub: Path, records: list[tuple[str, str]], expected: dict[str, np.ndarray]
) -> None:
    """A forced restart computes by what is prepared: made anew where it is damaged."""
    (tmp_path / "base").symlink_to(snapshot(hub, "model"))
    adapter = tmp_path / "my adapter"
    adapter.mkdir()
    for file in snapshot(hub, "adapter").glob("adapter_*"):
        (adapter / file.name).write_bytes(file.read_bytes())
    write_fasta(tmp_path / "in.fasta", records)
    model = {"name": MODEL, "weights": "base", "adapter": str(adapter), "prepared": "my prepared"}
    embed(tmp_path, model=model)
    assert_means(tmp_path, expected)

    (prepared,) = (path for path in (tmp_path / "my prepared").iterdir() if path.is_dir())
    layer = prepared / "layer-03.safetensors"
    content = bytearray(layer.read_bytes())
    content[-40_000:-20_000] = bytes(20_000)
    layer.write_bytes(content)
    (tmp_path / EMBEDDINGS).unlink()
    said = embed(tmp_path, model=model, checkpoint={"force_restart": True})
    assert "layer-03.safetensors: has changed since it was made; made anew" in said
    assert "forced restart: checkpoints of earlier runs are ignored" in said
    summary = json.loads((tmp_path / "results/d/summary.json").read_text())
    assert summary["n_computed"] == len(records)
    assert_means(tmp_path, expected)

    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 0}))
    planned = embed(tmp_path, "--dry-run", model=model)
    assert re.search(r"^fetch_weights +1$", planned, re.MULTILINE), planned
    assert re.search(r"^embed_shard +1$", planned, re.MULTILINE), planned
