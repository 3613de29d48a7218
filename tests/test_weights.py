import argparse
import os
import urllib.error
from pathlib import Path

import esm
import pytest
import torch
from spotesm import weights
from spotesm.failures import WeightsError
from spotesm.weights import (
    ARCHITECTURES,
    Architecture,
    Weights,
    fetch_weights,
    load_model,
    load_verified,
    make_untrained,
    sha256_of,
)

TINY = Architecture(layers=2, embedding_dim=16, attention_heads=2)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small weights file, under the name of a small model that fair-esm does not have."""
    monkeypatch.setitem(ARCHITECTURES, "esm2_tiny", TINY)
    make_untrained(TINY, tmp_path / "esm2_tiny.pt")
    return tmp_path / "esm2_tiny.pt"


def test_fair_esms_own_loader_reads_untrained_weights(tiny: Path) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs, alphabet = esm.pretrained.load_model_and_alphabet(str(tiny))
    ours = load_model(tiny, TINY)
    assert len(alphabet) == 33
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def test_untrained_weights_are_the_same_everywhere(tiny: Path, tmp_path: Path) -> None:
    make_untrained(TINY, tmp_path / "again" / "other-name.pt")
    assert sha256_of(tmp_path / "again" / "other-name.pt") == sha256_of(tiny)


def test_all_architectures_are_fair_esms() -> None:
    for name, shape in ARCHITECTURES.items():
        assert hasattr(esm.pretrained, name)
        assert shape.layers == int(name.split("_")[1][1:])
        assert shape.embedding_dim % shape.attention_heads == 0


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "truncated"])
def test_a_damaged_file_is_refused_by_name(tiny: Path, content: bytes | None) -> None:
    tiny.write_bytes(tiny.read_bytes()[:5000] if content is None else content)
    with pytest.raises(WeightsError, match=f"{tiny}: damaged") as caught:
        load_model(tiny, TINY)
    assert "\n" not in str(caught.value)


def test_nothing_but_tensors_and_namespaces_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"cfg": {"model": Evil()}, "model": {}}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt"):
        load_model(tmp_path / "evil.pt", TINY)
    assert not (tmp_path / "executed").exists()


def test_another_architecture_is_refused(tiny: Path) -> None:
    with pytest.raises(WeightsError, match="the config names"):
        load_model(tiny, Architecture(layers=3, embedding_dim=16, attention_heads=2))


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"some": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="not an ESM-2 file"):
        load_model(tmp_path / "other.pt", TINY)


def test_the_manifest_knows_the_file(tiny: Path, tmp_path: Path) -> None:
    fetch_weights("esm2_tiny", str(tiny), tmp_path, tmp_path / "manifest.json")
    manifest = Weights.read(tmp_path / "manifest.json")
    assert manifest == Weights("esm2_tiny", str(tiny), str(tiny), sha256_of(tiny))
    assert load_verified(manifest).embed_dim == 16
    make_untrained(Architecture(2, 32, 2), tiny)
    with pytest.raises(WeightsError, match="gone or changed"):
        load_verified(manifest)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    return tmp_path / "torch-home" / "hub" / "checkpoints"


def test_pretrained_weights_already_there_are_used(tiny: Path, hub: Path, tmp_path: Path) -> None:
    make_untrained(TINY, hub / "esm2_tiny.pt")
    fetch_weights("esm2_tiny", "pretrained", tmp_path, tmp_path / "manifest.json")
    manifest = Weights.read(tmp_path / "manifest.json")
    assert manifest.path == str(hub / "esm2_tiny.pt")
    assert not manifest.untrained


def test_a_download(tiny: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def serve(url: str, destination: str, progress: bool) -> None:
        asked.append(url)
        Path(destination).write_bytes((tmp_path / Path(url).name).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", serve)
    fetch_weights("esm2_tiny", "pretrained", tmp_path, tmp_path / "manifest.json")
    assert asked == [
        weights.DOWNLOAD_URL.format(folder="regression", file="esm2_tiny-contact-regression.pt"),
        weights.DOWNLOAD_URL.format(folder="models", file="esm2_tiny.pt"),
    ]
    assert (hub / "esm2_tiny.pt").read_bytes() == tiny.read_bytes()


@pytest.mark.parametrize("failure", ["offline", "truncated"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    tiny: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    def serve(url: str, destination: str, progress: bool) -> None:
        if failure == "offline":
            raise urllib.error.URLError("no route to host")
        Path(destination).write_bytes(tiny.read_bytes()[:3000])

    monkeypatch.setattr(torch.hub, "download_url_to_file", serve)
    with pytest.raises(WeightsError) as caught:
        fetch_weights("esm2_tiny", "pretrained", tmp_path, tmp_path / "manifest.json")
    message = str(caught.value)
    assert "\n" not in message
    assert f"put it at {hub / 'esm2_tiny-contact-regression.pt'}" in message
    assert list(hub.iterdir()) == []
    assert not (tmp_path / "manifest.json").exists()
