"""Weights are found, checked and written down before any shard waits for them."""

import dataclasses
import json
import re
import socket
from pathlib import Path

import pytest
import torch
from hub import add_repository
from models import write_fair_esm
from safetensors.torch import save_file
from source_contract import TINY, whole
from spotesm.base.failures import WeightsError
from spotesm.weights import downloads, sources
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.files import regression_path
from spotesm.weights.manifest import Weights, sha256_of
from spotesm.weights.untrained import RECIPE, untrained_source

MODEL = "esm2_tiny"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small weights file, under the name of a small model that fair-esm does not have."""
    monkeypatch.setitem(ARCHITECTURES, MODEL, TINY)
    write_fair_esm(TINY, tmp_path / f"{MODEL}.pt")
    return tmp_path / f"{MODEL}.pt"


def test_the_sha256_of_one_file_is_its_own(tiny: Path, tmp_path: Path) -> None:
    fetch_weights(MODEL, str(tiny), tmp_path / "manifest.json")
    weights = Weights.read(tmp_path / "manifest.json")
    assert weights.sha256 == sha256_of(tiny)
    assert weights.regression_sha256 == sha256_of(regression_path(tiny))
    assert (weights.model, weights.source, weights.path) == (MODEL, str(tiny), str(tiny))


def test_a_manifest_of_another_version_or_none(tmp_path: Path) -> None:
    for content in ('{"model": "x"}', "hello", "[]", '{"sha256": 1, "more": 2}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(WeightsError, match="run again with --forcerun fetch_weights"):
            Weights.read(tmp_path / "manifest.json")
    with pytest.raises(WeightsError, match="no such manifest"):
        Weights.read(tmp_path / "nothing.json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    return tmp_path / "torch-home" / "hub" / "checkpoints"


def test_the_hub_is_where_torch_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        assert downloads.hub_folder() == Path(torch.hub.get_dir())


def test_pretrained_weights_already_there_are_used(tiny: Path, hub: Path, tmp_path: Path) -> None:
    write_fair_esm(TINY, hub / f"{MODEL}.pt")
    source = json.loads('"pretrained"')  # as of a config: equal to the constant, not the same
    fetch_weights(MODEL, source, tmp_path / "manifest.json", contacts=True)
    weights = Weights.read(tmp_path / "manifest.json")
    assert weights.path == str(hub / f"{MODEL}.pt")
    assert weights.regression_sha256
    assert not weights.untrained


def test_without_network_it_is_said_where_to_put_them(
    tiny: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing listens there
    with pytest.raises(
        WeightsError,
        match=rf"^cannot download https://\S+/models/{MODEL}\.pt \(.*\); fetch it elsewhere and "
        rf"put it at {hub}/{MODEL}\.pt, or set model: weights: to the path of a copy$",
    ):
        fetch_weights(MODEL, "pretrained", tmp_path / "manifest.json")


@pytest.mark.parametrize("contacts", [False, True])
def test_the_regression_is_downloaded_only_for_contacts(
    tiny: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contacts: bool
) -> None:
    asked = []

    def serve(url: str, path: Path) -> None:
        asked.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / path.name).read_bytes())

    monkeypatch.setattr(downloads, "download", serve)
    fetch_weights(MODEL, "pretrained", tmp_path / "manifest.json", contacts=contacts)
    regression = downloads.ADDRESS.format(
        folder="regression", file=f"{MODEL}-contact-regression.pt"
    )
    model = downloads.ADDRESS.format(folder="models", file=f"{MODEL}.pt")
    assert asked == ([regression, model] if contacts else [model])
    assert bool(Weights.read(tmp_path / "manifest.json").regression_sha256) == contacts


def test_contacts_of_a_model_that_has_no_regression(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="contacts need a contact regression, which nobody"):
        fetch_weights("esm1v_t33_650M_UR90S_1", "untrained", tmp_path / "m.json", contacts=True)


def test_the_sha256_of_no_file_is_one_all_the_same(tmp_path: Path) -> None:
    found = set()
    for model in ("esm2_t6_8M_UR50D", "esm2_t12_35M_UR50D"):
        fetch_weights(model, "untrained", tmp_path / "manifest.json")
        found.add(Weights.read(tmp_path / "manifest.json").sha256)
    assert len(found) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in found)


def test_weights_that_are_not_those_of_the_manifest(tiny: Path, tmp_path: Path) -> None:
    """Such as when another version of spotESM opens them in another way."""
    for source in (str(tiny), "untrained"):
        fetch_weights(MODEL, source, tmp_path / "manifest.json")
        weights = Weights.read(tmp_path / "manifest.json")
        weights.open()
        with pytest.raises(WeightsError, match=f"{source}: not the weights that fetch_weights"):
            dataclasses.replace(weights, sha256="0" * 64).open()


def test_what_may_not_be_read(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tiny))

    monkeypatch.setattr(sources, "find_model", refuse)
    with pytest.raises(WeightsError, match=f"^{tiny}: Permission denied$"):
        fetch_weights(MODEL, str(tiny), tmp_path / "manifest.json")


def test_what_proves_the_weights_may_refuse_them(tiny: Path, tmp_path: Path) -> None:
    def refuse(weights: Weights) -> None:
        assert weights.path == str(tiny)
        raise WeightsError("not the published numbers")

    with pytest.raises(WeightsError, match="not the published numbers"):
        fetch_weights(MODEL, str(tiny), tmp_path / "manifest.json", prove=refuse)
    assert not (tmp_path / "manifest.json").exists()


# -- the hub of Hugging Face, as it is found offline -----------------------------------------------


@pytest.fixture
def snapshot(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the hub's cache, as a download leaves it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = add_repository(tmp_path / "hf", "me/tiny", "ab" * 20)
    folder.mkdir(parents=True)
    return folder


def test_a_name_of_the_hub_is_pinned_to_its_commit(snapshot: Path, tmp_path: Path) -> None:
    save_file(whole(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(CONFIG)
    for name in ("hf:me/tiny", "hf:me/tiny@main", f"hf:me/tiny@{'ab' * 20}"):
        fetch_weights(MODEL, name, tmp_path / "manifest.json")
        weights = Weights.read(tmp_path / "manifest.json")
        assert weights.source == f"hf:me/tiny@{'ab' * 20}"
        assert weights.path == str(snapshot)
        assert weights.sha256 == sha256_of(snapshot / "model.safetensors")


def test_a_revision_that_is_there_needs_no_network(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(whole(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(CONFIG)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def refuse(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fetch_weights(MODEL, f"hf:me/tiny@{'ab' * 20}", tmp_path / "manifest.json")
    assert asked == []


CONFIG = """{"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32,
"position_embedding_type": "rotary", "layer_norm_eps": 1e-5, "token_dropout": true,
"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}"""


def test_a_name_that_the_hub_cannot_give(snapshot: Path, tmp_path: Path) -> None:
    for name in ("hf:me/other", "hf:me/tiny@nothing", "hf:no such name"):
        with pytest.raises(
            WeightsError, match=f"{name.partition('@')[0]}: cannot be had"
        ) as caught:
            fetch_weights(MODEL, name, tmp_path / "manifest.json")
        assert "\n" not in str(caught.value)


def test_another_model_of_the_hub_is_refused_by_its_name(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="made from esm2_t12_35M_UR50D"):
        fetch_weights(MODEL, "hf:facebook/esm2_t12_35M_UR50D", tmp_path / "manifest.json")


def test_without_huggingface_hub_it_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="pip install huggingface_hub"):
        fetch_weights(MODEL, "hf:me/tiny", tmp_path / "manifest.json")


# By name, the first and the last number.
DRAWN = (
    ("embed_tokens.weight", 0.6344121694564819, -0.2744889259338379),
    ("layers.0.self_attn.q_proj.weight", -0.36106687784194946, -0.07984577119350433),
    ("layers.1.fc2.bias", -0.0862041637301445, -0.1358908861875534),
    ("lm_head.bias", 0.29226768016815186, 0.14620767533779144),
)


def test_untrained_weights_are_the_same_everywhere() -> None:
    """Numbers that were drawn once: when they change, so must the name of the recipe."""
    source = untrained_source(TINY)
    assert RECIPE == "spotesm untrained weights, recipe 1, seed 2"
    for name, first, last in DRAWN:
        with torch.random.fork_rng():
            for seed in (0, 1):  # whatever was drawn before
                torch.manual_seed(seed)
                values = source.get(name).view(-1)
                torch.testing.assert_close(values[[0, -1]], torch.tensor([first, last]))
