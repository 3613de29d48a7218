import argparse
import os
import urllib.error
from pathlib import Path

import esm
import pytest
import safetensors.torch
import torch
from spotesm.base.failures import WeightsError
from spotesm.model.reference import ReferenceEngine
from spotesm.request.outputs import Outputs
from spotesm.weights import sources
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.files import load_model, make_untrained, regression_path
from spotesm.weights.sources import Weights, fetch_weights, load_verified, sha256_of

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
    with pytest.raises(WeightsError, match="not an ESM file"):
        load_model(tmp_path / "other.pt", TINY)


def test_the_manifest_knows_the_file(tiny: Path, tmp_path: Path) -> None:
    fetch_weights("esm2_tiny", str(tiny), tmp_path, tmp_path / "manifest.json")
    manifest = Weights.read(tmp_path / "manifest.json")
    assert manifest == Weights(
        "esm2_tiny", str(tiny), str(tiny), sha256_of(tiny), sha256_of(regression_path(tiny))
    )
    assert load_verified(manifest).embed_dim == 16
    make_untrained(Architecture(2, 32, 2), tiny)
    with pytest.raises(WeightsError, match="gone or has changed"):
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
        sources.DOWNLOAD_URL.format(folder="regression", file="esm2_tiny-contact-regression.pt"),
        sources.DOWNLOAD_URL.format(folder="models", file="esm2_tiny.pt"),
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


TINY_ESM1 = Architecture(layers=2, embedding_dim=16, attention_heads=2, family="esm1")


def test_esm1_files_are_read_by_fair_esms_own_loader(tmp_path: Path) -> None:
    path = tmp_path / "esm1b_tiny.pt"
    make_untrained(TINY_ESM1, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs, alphabet = esm.pretrained.load_model_and_alphabet(str(path))
    ours = load_model(path, TINY_ESM1)
    assert isinstance(ours, esm.ProteinBertModel)
    _, _, tokens = alphabet.get_batch_converter()([("", "MKTAYIAK")])
    with torch.inference_mode():
        a, b = (model.eval()(tokens, [0, 2], return_contacts=True) for model in (theirs, ours))
    for key in ("logits", "contacts"):
        assert torch.equal(a[key], b[key])
    assert torch.equal(a["representations"][2], b["representations"][2])


def test_esm1_sees_1024_tokens_and_not_one_more(tmp_path: Path) -> None:
    make_untrained(TINY_ESM1, tmp_path / "esm1b_tiny.pt")
    engine = ReferenceEngine(
        load_model(tmp_path / "esm1b_tiny.pt", TINY_ESM1), torch.device("cpu"), torch.float32
    )
    outputs = Outputs(("mean",), (2,))
    with torch.inference_mode():
        assert engine(torch.full((1024,), 5), [1024], outputs).hidden[2].isfinite().all()
        with pytest.raises(ValueError, match="1025"):
            engine(torch.full((1025,), 5), [1025], outputs)


@pytest.mark.parametrize("leaves_out", [(), ("rotary_embeddings", "lm_head.decoder")])
def test_hugging_face_s_files_give_the_same_model(
    tiny: Path, tmp_path: Path, leaves_out: tuple[str, ...]
) -> None:
    """Written by the names that `transformers.EsmForMaskedLM` has."""
    fair_esm = load_model(tiny, TINY)
    names = {
        "embed_tokens": "esm.embeddings.word_embeddings",
        "emb_layer_norm_after": "esm.encoder.emb_layer_norm_after",
        "contact_head.regression": "esm.contact_head.regression",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.layer_norm": "lm_head.layer_norm",
    }
    for i in range(TINY.layers):
        ours, theirs = f"layers.{i}", f"esm.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            names[f"{ours}.self_attn.{name[0]}_proj"] = f"{theirs}.attention.self.{name}"
        names[f"{ours}.self_attn.rot_emb"] = f"{theirs}.attention.self.rotary_embeddings"
        names[f"{ours}.self_attn.out_proj"] = f"{theirs}.attention.output.dense"
        names[f"{ours}.self_attn_layer_norm"] = f"{theirs}.attention.LayerNorm"
        names[f"{ours}.fc1"] = f"{theirs}.intermediate.dense"
        names[f"{ours}.fc2"] = f"{theirs}.output.dense"
        names[f"{ours}.final_layer_norm"] = f"{theirs}.LayerNorm"
    state = {"esm.embeddings.position_ids": torch.arange(1026)[None]}
    for name, value in fair_esm.state_dict().items():
        module, _, parameter = name.rpartition(".")
        renamed = f"{names[module]}.{parameter}"
        renamed = "lm_head.decoder.weight" if renamed == "lm_head.weight" else renamed
        if not any(part in renamed for part in leaves_out):
            state[renamed] = value.clone()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)

    fetch_weights("esm2_tiny", str(path), tmp_path, tmp_path / "manifest.json")
    loaded = load_verified(Weights.read(tmp_path / "manifest.json"))
    assert Weights.read(tmp_path / "manifest.json").regression_sha256 == sha256_of(path)
    for name, value in fair_esm.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("content", [b"", b"hello", "other"])
def test_a_wrong_safetensors_file_is_refused_by_name(tmp_path: Path, content: object) -> None:
    path = tmp_path / "model.safetensors"
    if content == "other":
        safetensors.torch.save_file({"esm.x": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path}: ") as caught:
        load_model(path, TINY)
    assert "\n" not in str(caught.value)


def test_a_file_that_transformers_wrote_gives_its_own_numbers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the benchmark extra")
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,  # as published ESM-2 has it
        attn_implementation="eager",  # the one that tells contacts
    )
    torch.manual_seed(3)
    theirs = transformers.EsmForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path / "model.safetensors", TINY)
    _, _, tokens = ours.alphabet.get_batch_converter()([("", "MKTAYIAKQRLLG")])
    with torch.inference_mode():
        got = ours(tokens, repr_layers=[2], return_contacts=True)
        hidden = theirs.esm(tokens).last_hidden_state
        logits = theirs(tokens).logits
        contacts = theirs.predict_contacts(tokens, torch.ones_like(tokens))
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(got["representations"][2], hidden, **close)
    torch.testing.assert_close(got["logits"], logits, **close)
    torch.testing.assert_close(got["contacts"], contacts, **close)
