"""Weights as users have them, through the workflow, against what their own library computes."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import add_repository, esm_config
from safetensors.torch import load_file, save_file
from sequences import random_sequence, write_fasta
from snakemake_runs import snakemake, write_config
from spotesm.hdf5.reader import Embeddings
from spotesm.sequences.alphabet import tokenise
from spotesm.weights.architectures import ARCHITECTURES

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

MODEL = "esm2_t6_8M_UR50D"
COMMIT = "ef" * 20
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


def expected_means(
    hub: Path, records: list[tuple[str, str]], adapter: bool
) -> dict[str, np.ndarray]:
    """By transformers and peft, one sequence at a time."""
    model = transformers.EsmForMaskedLM.from_pretrained(snapshot(hub, "model"))
    if adapter:
        model = peft.PeftModel.from_pretrained(model, snapshot(hub, "adapter")).merge_and_unload()
    means = {}
    with torch.inference_mode():
        for name, sequence in records:
            tokens = torch.from_numpy(tokenise(sequence.encode())).long()[None]
            means[name] = model.eval().esm(tokens).last_hidden_state[0, 1:-1].mean(0).numpy()
    return means


def assert_means(folder: Path, expected: dict[str, np.ndarray]) -> str:
    """Compare all rows; return what the file calls its weights."""
    with Embeddings(folder / "results/d/embeddings.h5") as embeddings:
        assert sorted(embeddings.ids) == sorted(expected)
        for name, mean in expected.items():
            np.testing.assert_allclose(embeddings[name], mean, rtol=0, atol=1e-5)
        return embeddings.attributes["weights"]


@pytest.mark.parametrize("adapter", ["", "hf:lab/adapter"])
def test_names_of_the_hub(
    tmp_path: Path,
    hub: Path,
    records: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    adapter: str,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_fasta(tmp_path / "in.fasta", records)
    model = {"name": MODEL, "weights": "hf:lab/model", "adapter": adapter}
    config = write_config(tmp_path, datasets={"d": "in.fasta"}, model=model)
    run = snakemake(tmp_path, *RUN, str(config))
    assert run.returncode == 0, run.stdout
    named = assert_means(tmp_path, expected_means(hub, records, bool(adapter)))
    assert named == f"hf:lab/model@{COMMIT}" + (f" + hf:lab/adapter@{COMMIT}" if adapter else "")


def test_folders_with_prepared_weights_elsewhere(
    tmp_path: Path, hub: Path, records: list[tuple[str, str]]
) -> None:
    """What changes in an adapter is computed anew; what is damaged is made anew."""
    (tmp_path / "base").symlink_to(snapshot(hub, "model"))
    adapter = tmp_path / "my adapter"
    adapter.mkdir()
    for file in snapshot(hub, "adapter").glob("adapter_*"):
        (adapter / file.name).write_bytes(file.read_bytes())
    write_fasta(tmp_path / "in.fasta", records)
    model = {"name": MODEL, "weights": "base", "adapter": str(adapter), "prepared": "my prepared"}
    config = write_config(tmp_path, datasets={"d": "in.fasta"}, model=model)
    run = snakemake(tmp_path, *RUN, str(config))
    assert run.returncode == 0, run.stdout
    assert_means(tmp_path, expected_means(hub, records, adapter=True))
    (prepared,) = (path for path in (tmp_path / "my prepared").iterdir() if path.is_dir())
    layer = prepared / "layer-03.safetensors"
    content = bytearray(layer.read_bytes())
    content[-40_000:-20_000] = bytes(20_000)
    layer.write_bytes(content)
    run = snakemake(tmp_path, *RUN, str(config), "--forcerun", "split_fasta")
    assert run.returncode == 0, run.stdout
    again = snakemake(tmp_path, *RUN, str(config), "--config", "checkpoint={force_restart: true}")
    assert again.returncode == 0, again.stdout
    assert_means(tmp_path, expected_means(hub, records, adapter=True))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 0}))
    run = snakemake(tmp_path, *RUN, str(config))
    assert run.returncode == 0, run.stdout
    assert_means(tmp_path, expected_means(hub, records, adapter=False))


def not_finite(state: dict[str, torch.Tensor]) -> None:
    state["esm.encoder.layer.3.output.dense.bias"][-1] = torch.nan


def test_what_would_mislead_ends_before_any_shard(
    tmp_path: Path, hub: Path, records: list[tuple[str, str]]
) -> None:
    state = {
        name: tensor
        for file in snapshot(hub, "model").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    not_finite(state)
    save_file(state, tmp_path / "mine.safetensors")
    write_fasta(tmp_path / "in.fasta", records)
    model = {"name": MODEL, "weights": "mine.safetensors"}
    config = write_config(tmp_path, datasets={"d": "in.fasta"}, model=model)
    run = snakemake(tmp_path, *RUN, str(config), "--until", "fetch_weights")
    assert run.returncode == 1
    assert (
        "mine.safetensors: layers.3.fc2.bias holds a NaN or an infinite number"
        in run.stdout.partition("spotESM could not finish:")[2]
    )
    assert "Traceback" not in run.stdout
