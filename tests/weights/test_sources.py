"""Forms of weights that need no client of their own, and files that are none."""

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import esm
import pytest
import torch
from models import TINY_ESM1, write_fair_esm
from safetensors.torch import save_file
from source_contract import (
    TINY,
    SourceTests,
    Tensors,
    Values,
    change_file,
    read_tensors,
    values_of,
    whole,
)
from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import ARCHITECTURES, Architecture, tensor_shapes
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.files import regression_path
from spotesm.weights.manifest import Weights, sha256_of
from spotesm.weights.sources import open_source
from spotesm.weights.untrained import untrained_source


def fair_esms_own(path: Path) -> Values:
    """By fair-esm's own loader."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        model, _ = esm.pretrained.load_model_and_alphabet(str(path))
    values = values_of(model.eval(), len(model.layers))
    return values if regression_path(path).exists() else {**values, "contacts": None}


class TestFairEsm(SourceTests):
    name = "esm2_mine.pt"  # by which fair-esm tells the family

    def write(self, folder: Path) -> Path:
        write_fair_esm(self.architecture, folder / self.name)
        return folder / self.name

    def expected(self, where: Path) -> Values:
        with torch.serialization.safe_globals([argparse.Namespace]):
            model, _ = esm.pretrained.load_model_and_alphabet(str(where))
        return values_of(model.eval(), len(model.layers))


class TestFairEsmLegacy(TestFairEsm):
    """The format of before zip files, which cannot be mapped."""

    def write(self, folder: Path) -> Path:
        path = super().write(folder)
        for file in (path, regression_path(path)):
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, weights_only=True)
            torch.save(content, file, _use_new_zipfile_serialization=False)
        return path

    test_half_a_download_is_told = None  # nothing in it says how long it should be


class TestFairEsm1(TestFairEsm):
    architecture = TINY_ESM1
    name = "esm1b_mine.pt"


class TestFairEsmWithoutRegression(TestFairEsm):
    def write(self, folder: Path) -> Path:
        path = super().write(folder)
        regression_path(path).rename(folder / "away")
        return path

    def expected(self, where: Path) -> Values:
        regression_path(where).write_bytes((where.parent / "away").read_bytes())
        values = super().expected(where)
        regression_path(where).unlink()
        del values["contacts"]
        return values


class TestFairEsmStateDict(TestFairEsm):
    """`model.state_dict()` of fair-esm's own class."""

    def write(self, folder: Path) -> Path:
        path = super().write(folder)
        self.values = super().expected(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            self.model, _ = esm.pretrained.load_model_and_alphabet(str(path))
        path.unlink()
        regression_path(path).unlink()
        self.save(folder / "mine")
        return folder / "mine"

    def save(self, path: Path) -> None:
        torch.save(self.model.state_dict(), path)

    def expected(self, where: Path) -> Values:
        return self.values


class TestFairEsm1StateDict(TestFairEsmStateDict):
    architecture = TINY_ESM1
    name = "esm1b_mine.pt"


class TestFairEsmStateDictOnSeveralGpus(TestFairEsmStateDict):
    def save(self, path: Path) -> None:
        parameters = {f"module.{n}": x for n, x in self.model.named_parameters()}
        torch.save(parameters, path)  # with their gradients' flags


class TestFairEsmStateDictAsSafetensors(TestFairEsmStateDict):
    def save(self, path: Path) -> None:
        save_file({name: x.clone() for name, x in self.model.state_dict().items()}, path)


def test_architectures_from_fair_esm_s_address_are_fair_esms() -> None:
    for name, shape in ARCHITECTURES.items():
        if shape.hub:  # from elsewhere
            continue
        assert hasattr(esm.pretrained, name)
        assert shape.layers == int(name.split("_")[1][1:])
        assert shape.embedding_dim % shape.attention_heads == 0


def test_shapes_are_those_of_fair_esms_own_models(tmp_path: Path) -> None:
    for shape in (TINY, TINY_ESM1):
        write_fair_esm(shape, tmp_path / "x.pt")
        source = open_source(tmp_path / "x.pt", shape)
        assert source.names == tensor_shapes(shape).keys()
        assert untrained_source(shape).names == source.names - {"rot_emb.inv_freq"}


# -- names of transformers, without it -------------------------------------------------------------


def saved(folder: Path, state: Tensors) -> Path:
    save_file({name: x.clone() for name, x in state.items()}, folder / "any.name")
    return folder / "any.name"


def test_prefixes_and_old_names_of_norms_do_not_matter(tmp_path: Path) -> None:
    state = whole()
    source = open_source(saved(tmp_path, state), TINY)
    expected = {name: source.get(name).clone() for name in source.names}
    query = "esm.encoder.layer.1.attention.self.query.weight"
    assert torch.equal(expected["layers.1.self_attn.q_proj.weight"], state[query])
    for rename in (
        lambda name: name.removeprefix("esm."),
        lambda name: f"base_model.model.{name}",
        lambda name: f"module.{name}",
        lambda name: f"model._orig_mod.{name}",
        lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
    ):
        other = open_source(saved(tmp_path, {rename(name): x for name, x in state.items()}), TINY)
        assert other.names == source.names
        for name, value in expected.items():
            assert torch.equal(other.get(name), value)


def without(part: str) -> Callable[[Tensors], None]:
    def change(state: Tensors) -> None:
        for name in [name for name in state if part in name]:
            del state[name]

    return change


@pytest.mark.parametrize(("part", "has"), [("lm_head", (False, True)), ("contact", (True, False))])
def test_heads_may_be_missing(tmp_path: Path, part: str, has: tuple[bool, bool]) -> None:
    state = whole()
    without(part)(state)
    source = open_source(saved(tmp_path, state), TINY)
    assert (source.has_logits, source.has_contacts) == has


LAYER = "esm.encoder.layer.0."
DIM = TINY.embedding_dim


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.update(
                {"esm.embeddings.position_embeddings.weight": torch.zeros(1026, DIM)}
            ),
            r"holds an ESM-1b or ESM-1v \(its positions are learned\), but model: name is an ESM-2",
        ),
        (
            lambda s: s.update({"esm.embeddings.layer_norm.weight": torch.ones(DIM)}),
            r"emb_layer_norm_before\.weight is more than the model has",
        ),
        (
            lambda s: s.update({"lm_head.decoder.weight": torch.zeros(33, DIM)}),
            r"its decoder .* should be one tensor, and differ; .* tie_word_embeddings: false in",
        ),
        (
            lambda s: s.update({f"{LAYER}attention.self.query.lora_A.weight": torch.ones(8, DIM)}),
            r"holds an adapter that is not merged",
        ),
        (
            lambda s: s.update(
                {f"{LAYER}attention.self.key.base_layer.weight": torch.ones(DIM, DIM)}
            ),
            r"holds an adapter that is not merged",
        ),
        (
            lambda s: s.update({f"{LAYER}LayerNorm.gamma": torch.full((DIM,), 7.0)}),
            r"are two values of one tensor, and differ",
        ),
        (
            lambda s: s.update({"embeddings.word_embeddings.weight": torch.ones(33, DIM)}),
            r"are two values of one tensor, and differ",
        ),
        (
            lambda s: s.update(
                {"esm.rotary_embeddings.inv_freq": torch.tensor([1.0, 0.5, 0.1, 0.1])}
            ),
            r"its rotary frequencies are not those of ESM",
        ),
        *(
            (
                lambda s, kind=kind: s.update(
                    {f"{LAYER}output.dense.bias": torch.ones(DIM).to(kind)}
                ),
                rf"output\.dense\.bias is stored as {kind}, strided".replace("torch.", ""),
            )
            for kind in (torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64)
        ),
        (
            lambda s: s.update(
                {"esm.rotary_embeddings.inv_freq": 1.03 * 1e4 ** (-torch.arange(4) / 4)}
            ),
            r"its rotary frequencies are not those of ESM",
        ),
        (without("lm_head.dense"), r"lm_head\.dense\.bias, lm_head\.dense\.weight are missing"),
        (without(".query.bias"), r"layers\.0\S+q_proj\.bias, layers\.1\S+q_proj\.bias are missing"),
        (
            lambda s: s.update({"trunk.ipa.weight": torch.ones(3)}),
            r"holds trunk\.ipa\.weight, which",
        ),
    ],
)
def test_nothing_in_a_file_is_ignored(
    tmp_path: Path, change: Callable[[Tensors], None], said: str
) -> None:
    state = whole()
    change(state)
    with pytest.raises(WeightsError, match=said) as caught:
        open_source(saved(tmp_path, state), TINY)
    assert "\n" not in str(caught.value)


def test_what_is_there_twice_and_equal_is_used(tmp_path: Path) -> None:
    state = whole()
    state["lm_head.decoder.weight"] = state["esm.embeddings.word_embeddings.weight"]
    state[f"{LAYER}LayerNorm.gamma"] = state[f"{LAYER}LayerNorm.weight"]
    exponents = torch.arange(4) / 4
    state["esm.rotary_embeddings.inv_freq"] = (1e4**-exponents).half()
    state |= {"classifier.dense.weight": torch.ones(3), "esm.pooler.dense.bias": torch.ones(3)}
    state["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    source = open_source(saved(tmp_path, state), TINY)
    assert torch.equal(source.get("rot_emb.inv_freq"), state["esm.rotary_embeddings.inv_freq"])


# -- fair-esm's format -----------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_fair_esm(TINY, tmp_path / "esm2_tiny.pt")
    return tmp_path / "esm2_tiny.pt"


def test_untied_decoders_are_refused_in_fair_esms_format(tiny: Path) -> None:
    change_file(tiny, lambda t: t["encoder.lm_head.weight"].add_(1))  # shared: both
    open_source(tiny, TINY)
    change_file(
        tiny, lambda t: t.update({"encoder.lm_head.weight": t["encoder.lm_head.weight"] + 1})
    )
    with pytest.raises(WeightsError, match=r"should be one tensor, and differ$"):
        open_source(tiny, TINY)


def test_the_file_s_own_rotary_frequencies_are_used_as_fair_esm_does(tiny: Path) -> None:
    def round_them(tensors: Tensors) -> None:
        for name in tensors:
            if name.endswith("inv_freq"):
                tensors[name] = tensors[name].half() * 1.01

    before = fair_esms_own(tiny)["hidden"]
    change_file(tiny, round_them)
    expected = fair_esms_own(tiny)["hidden"]
    assert not torch.allclose(before, expected, atol=1e-5)

    def check(case: SourceTests) -> None:
        case.expected = fair_esms_own
        ARCHITECTURES["esm_tiny"] = TINY
        try:
            case.test_it_gives_the_numbers_of_its_client(tiny)
        finally:
            del ARCHITECTURES["esm_tiny"]

    check(SourceTests())


def update_model(content: dict, **more: object) -> None:
    content["model"] |= more


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: update_model(c, **{"embed_tokens.weight": torch.ones(33, 16)}),
            r"sentence_encoder\.embed_tokens\.weight and embed_tokens\.weight are two values",
        ),
        (
            # The one that is right comes last.
            lambda c: c.update(model={"layers.0.fc1.bias": torch.ones(64), **c["model"]}),
            r"layers\.0\.fc1\.bias and encoder\.sentence_encoder\.layers\.0\.fc1\.bias are two",
        ),
        (lambda c: c["model"].update({3: torch.ones(3)}), "holds 3$"),
        (lambda c: update_model(c, **{"encoder.lm_head.bias": [0.0] * 33}), r"lm_head\.bias$"),
        (
            lambda c: update_model(c, **{"encoder.lm_head.bias": torch.ones(33, device="meta")}),
            r"lm_head\.bias has a shape, but no numbers",
        ),
        (
            lambda c: update_model(c, **{"encoder.lm_head.bias": torch.ones(33).to_sparse()}),
            r"lm_head\.bias is stored as float32, sparse_coo",
        ),
        (
            lambda c: c["cfg"].update(model={"encoder_attention_heads": 4}),
            "has 4 attention heads",
        ),
        (lambda c: c["cfg"].update(model=3), "not an ESM file"),
        (lambda c: c.pop("cfg") and c.update(args={"lr": 1e-4}), "not an ESM file"),
    ],
)
def test_nothing_in_fair_esms_format_is_ignored(
    tiny: Path, change: Callable[[dict], None], said: str
) -> None:
    content, _ = read_tensors(tiny)
    change(content)
    torch.save(content, tiny)
    with pytest.raises(WeightsError, match=said) as caught:
        open_source(tiny, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dropout", [True, False])
def test_settings_may_be_a_mapping(tiny: Path, dropout: bool) -> None:
    content, _ = read_tensors(tiny)
    content["cfg"]["model"] = {"token_dropout": dropout}
    torch.save(content, tiny)
    assert open_source(tiny, TINY).token_dropout == dropout


@pytest.mark.parametrize(("shape", "key"), [(TINY, "cfg"), (TINY_ESM1, "args")])
def test_fair_esm_s_own_defaults_hold(tmp_path: Path, shape: Architecture, key: str) -> None:
    """An ESM-1 drops tokens only if its file says so, an ESM-2 always but if its file says no."""
    path = tmp_path / "model.pt"
    write_fair_esm(shape, path)
    content, _ = read_tensors(path)
    told = content[key]["model"] if key == "cfg" else content[key]
    told = vars(told) if isinstance(told, argparse.Namespace) else told
    assert told.pop("token_dropout")
    torch.save(content, path)
    assert open_source(path, shape).token_dropout == (shape is TINY)


def test_a_regression_beside_any_form_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "esm_tiny", TINY)
    state = whole()
    wanted = {name.removeprefix("esm."): x for name, x in state.items() if "contact" in name}
    without("contact")(state)
    place = regression_path(saved(tmp_path, state))
    fetch = partial(fetch_weights, "esm_tiny", str(tmp_path / "any.name"), tmp_path / "m.json")
    with pytest.raises(WeightsError, match=f"put fair-esm's at {place}"):
        fetch(contacts=True)
    torch.save({"model": wanted}, place)
    fetch(contacts=True)
    weights = Weights.read(tmp_path / "m.json")
    assert weights.regression_sha256 == sha256_of(place)
    assert weights.sha256 == sha256_of(tmp_path / "any.name")
    for name, value in wanted.items():
        assert torch.equal(weights.open().get(name), value)
    place.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match=f"{place}: a web page"):
        open_source(tmp_path / "any.name", TINY)


def test_another_number_of_heads_is_refused(tiny: Path) -> None:
    other = type(TINY)(2, 16, 4)
    with pytest.raises(WeightsError, match="has 2 attention heads, but model: name has 4"):
        open_source(tiny, other)


# -- files that are none ---------------------------------------------------------------------------


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder / "executed"),)


@pytest.mark.parametrize(
    "content",
    [
        lambda evil: {"cfg": {"model": evil}, "model": {}},
        lambda evil: {"a": torch.ones(3), "b": evil},
        lambda evil: evil,
    ],
)
@pytest.mark.parametrize("write", [torch.save, "legacy", "pickle"])
def test_no_code_is_run(tmp_path: Path, content: Callable, write: object) -> None:
    path = tmp_path / "evil.pt"
    if write == "pickle":
        path.write_bytes(pickle.dumps(content(Evil(tmp_path))))
    else:
        torch.save(content(Evil(tmp_path)), path, _use_new_zipfile_serialization=write != "legacy")
    with pytest.raises(WeightsError, match=r"evil\.pt: damaged, or holds Python objects") as caught:
        open_source(path, TINY)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"\0" * 9000, "holds zeros"),
        (b"hello", "damaged, or no weights file"),
        (b"\r\n <!DOCTYPE html><html>403</html>", "a web page, not weights"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 31\n", "git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(50), "compressed; unpack it first"),
        (b"model.pt" + bytes(249) + b"ustar", "a tar archive; unpack it"),
        (b'{"error": "Invalid username or password."}', "a JSON file, not weights"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (zip_of_text, "damaged"),
        (torchscript, "a TorchScript archive, which holds code"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor"),
        (lambda path: torch.save({"epoch": 3}, path), "holds epoch"),
        (
            lambda path: torch.save({"state_dict": {}, "epoch": 3}, path),
            "holds state_dict, epoch; save its state_dict alone",
        ),
        (lambda path: torch.save({"cfg": {}, "model": {}}, path), "not an ESM file in fair-esm"),
        (lambda path: torch.save({"some": torch.zeros(3)}, path), "holds some, which no ESM"),
        (lambda path: torch.save({}, path), "missing"),
    ],
)
def test_what_a_file_is_is_told(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(WeightsError, match=said) as caught:
        open_source(path, TINY)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message


def test_formats_are_told_by_bytes(tmp_path: Path, tiny: Path) -> None:
    safe, torch_file = tmp_path / "safe.pt", tmp_path / "torch.safetensors"
    save_file(whole(), safe)
    torch_file.write_bytes(tiny.read_bytes())
    assert open_source(safe, TINY).has_contacts
    assert open_source(torch_file, TINY).has_logits


def test_folders_without_a_model(tmp_path: Path) -> None:
    for said, name in (
        ("holds none of model.safetensors", None),
        ("an adapter, not a model", "adapter_config.json"),
        ("no config.json in it", "model.safetensors"),
    ):
        folder = tmp_path / str(name)
        folder.mkdir()
        if name:
            (folder / name).write_text("{}")
        with pytest.raises(WeightsError, match=said):
            open_source(folder, TINY)
    with pytest.raises(WeightsError, match="no such file or folder"):
        open_source(tmp_path / "nothing", TINY)
