"""Models that transformers and peft themselves wrote, against their own forward."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from models import TINY_ESM1
from safetensors.torch import load_file, save_file
from source_contract import SEQUENCE, TINY, SourceTests, Tensors, Values
from spotesm.base.failures import WeightsError
from spotesm.sequences.alphabet import tokenise
from spotesm.weights import hugging_face
from spotesm.weights.files import regression_path
from spotesm.weights.sources import open_source

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "peft"))),
    reason="needs transformers and peft",
)
Change = Callable[[Tensors], object]
TOKENS = torch.from_numpy(tokenise(SEQUENCE)).long()[None]


class HuggingFaceTests(SourceTests):
    """`save_pretrained` of a class of transformers."""

    kind = "EsmForMaskedLM"
    has = ("hidden", "logits", "contacts")
    config: ClassVar[dict] = {}
    saved: ClassVar[dict] = {}

    def make(self):
        import transformers

        config = transformers.EsmConfig(
            **{
                "vocab_size": 33,
                "mask_token_id": 32,
                "pad_token_id": 1,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "position_embedding_type": "rotary",
                "token_dropout": True,
                "emb_layer_norm_before": False,
                "layer_norm_eps": 1e-5,
                "initializer_range": 0.3,  # else contacts are all but equal
                **self.config,
            },
            attn_implementation="eager",  # the one that tells contacts
        )
        model = getattr(transformers, self.kind)(config)
        with torch.no_grad():  # norms are made as the identity
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    def write(self, folder: Path) -> Path:
        self.model = self.make()
        self.model.save_pretrained(folder, **self.saved)
        return folder

    def expected(self, where: Path) -> Values:
        trunk = getattr(self.model, "esm", self.model)
        with torch.inference_mode():
            values = {"hidden": trunk(TOKENS).last_hidden_state[0]}
            if "logits" in self.has:
                values["logits"] = self.model(TOKENS).logits[0]
            if "contacts" in self.has:
                attention = torch.ones_like(TOKENS)
                values["contacts"] = self.model.predict_contacts(TOKENS, attention)[0]
        return values


class TestForMaskedLM(HuggingFaceTests):
    def test_config_json_is_watched(self, where: Path) -> None:
        weights = self.fetch(where)
        path = where / "config.json"
        path.write_text(path.read_text() + "\n")
        with pytest.raises(WeightsError, match=f"{path}: it is gone, or has changed"):
            weights.open()


class TestWithoutTokenDropout(HuggingFaceTests):
    config: ClassVar[dict] = {"token_dropout": False}

    def test_token_dropout_is_in_the_sha256(self, where: Path) -> None:
        before = self.fetch(where).sha256
        config = json.loads((where / "config.json").read_text())
        (where / "config.json").write_text(json.dumps({**config, "token_dropout": True}))
        assert self.fetch(where).sha256 != before


class TestUntiedDecoder(HuggingFaceTests):
    config: ClassVar[dict] = {"tie_word_embeddings": False}


class TestShards(HuggingFaceTests):
    saved: ClassVar[dict] = {"max_shard_size": "8KB"}

    def test_one_shard_alone_is_refused(self, where: Path) -> None:
        with pytest.raises(WeightsError, match="or one of several files"):
            open_source(self.tensor_file(where), TINY)

    def test_the_index_is_the_folder(self, where: Path) -> None:
        index = where / "model.safetensors.index.json"
        assert self.fetch(index).sha256 == self.fetch(where).sha256

    @pytest.mark.parametrize(
        ("weight_map", "said"),
        [({}, "weight_map is empty"), ({"a": 1}, "no weight_map"), (None, "no weight_map")],
    )
    def test_an_index_that_is_none(self, where: Path, weight_map: object, said: str) -> None:
        index = where / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(WeightsError, match=f"{index}: .*{said}"):
            open_source(where, TINY)

    def test_a_regression_belongs_to_the_first_shard(self, where: Path) -> None:
        first = sorted(where.glob("*.safetensors"))[0]
        torch.save({"model": {}}, regression_path(first))
        with pytest.raises(WeightsError, match="not a contact regression"):
            open_source(where, TINY)

    def test_a_shard_that_is_not_there_is_named(self, where: Path) -> None:
        self.tensor_file(where).unlink()
        with pytest.raises(WeightsError, match=r"names model-\S+, which is not there"):
            open_source(where, TINY)


class TestOneFile(HuggingFaceTests):
    """The file alone, with config.json beside it."""

    def write(self, folder: Path) -> Path:
        return super().write(folder) / "model.safetensors"


class TestTorchBin(HuggingFaceTests):
    def write(self, folder: Path) -> Path:
        super().write(folder)
        (folder / "model.safetensors").unlink()
        torch.save(self.model.state_dict(), folder / "pytorch_model.bin")
        return folder

    def tensor_file(self, where: Path) -> Path:
        return where / "pytorch_model.bin"


class TestBareModel(HuggingFaceTests):
    kind, has = "EsmModel", ("hidden", "contacts")


class TestSequenceClassification(HuggingFaceTests):
    kind, has = "EsmForSequenceClassification", ("hidden",)

    def expected(self, where: Path) -> Values:
        values = super().expected(where)
        attention = torch.ones_like(TOKENS)
        with torch.inference_mode():
            return values | {"contacts": self.model.esm.predict_contacts(TOKENS, attention)[0]}


class TestTokenClassification(TestSequenceClassification):
    kind = "EsmForTokenClassification"


class TestEsm1(HuggingFaceTests):
    """Absolute positions, and with ESM-1b a norm before the layers."""

    architecture = TINY_ESM1
    config: ClassVar[dict] = {"position_embedding_type": "absolute", "emb_layer_norm_before": True}


class TestEsm1WithoutNormBefore(HuggingFaceTests):
    architecture = TINY_ESM1
    config: ClassVar[dict] = {"position_embedding_type": "absolute", "token_dropout": False}


class TestHalfPrecision(HuggingFaceTests):
    """A float16 file is what it says, computed in float32."""

    def make(self):
        return super().make().half()

    def expected(self, where: Path) -> Values:
        import transformers

        kind = getattr(transformers, self.kind)
        self.model = kind.from_pretrained(
            where, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        return super().expected(where)


# -- config.json -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return HuggingFaceTests().write(tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"model_type": "bert"}, r"model_type is 'bert'"),
        ({"vocab_size": 34}, r"vocab_size is 34; spotESM computes 33 only"),
        ({"layer_norm_eps": 1e-12}, r"layer_norm_eps is 1e-12; spotESM computes 1e-05 only"),
        ({"layer_norm_eps": None}, r"layer_norm_eps is None"),
        ({"rope_theta": 500000.0}, r"rope_theta is 500000.0"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters is "),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 9_999.0}}, r"rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10_001}}, r"rope_parameters"),
        ({"rope_parameters": {"rope_type": "a", "rope_theta": 10_000.0}}, r"rope_parameters is "),
        ({"position_embedding_type": "relative_key"}, r"position_embedding_type is 'relative_key'"),
        ({"position_embedding_type": "absolute"}, r"says an ESM-1b .* model: name is an ESM-2"),
        ({"emb_layer_norm_before": True}, r"emb_layer_norm_before is true, which no ESM-2 has"),
        ({"intermediate_size": 32}, r"intermediate_size is 32, but that of model: name is 64"),
        ({"num_attention_heads": 4}, r"num_attention_heads is 4, but that of model: name is 2"),
        ({"hidden_act": "relu"}, r"hidden_act is 'relu'"),
        ({"is_folding_model": True}, r"an ESMFold"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is .* does not know"),
        ({"sliding_window": 128}, r"sliding_window is 128, which spotESM does not know"),
        ({"_name_or_path": "facebook/esm2_t12_35M_UR50D"}, r"made from esm2_t12_35M_UR50D"),
    ],
)
def test_what_config_json_says_is_computed_or_refused(
    folder: Path, tmp_path: Path, said: dict, line: str
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    config: ClassVar[dict] = json.loads((folder / "config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**config, **said}))
    with pytest.raises(WeightsError, match=line) as caught:
        open_source(tmp_path / "m", TINY)
    assert str(tmp_path / "m") in str(caught.value)
    assert "\n" not in str(caught.value)


OTHER_VALUES = {  # of each setting that decides about numbers
    "model_type": ["esm2", None],
    "vocab_size": [32, None],
    "pad_token_id": [0, 2, None],
    "mask_token_id": [31, None],
    "position_embedding_type": ["absolute", "rope", None],
    "layer_norm_eps": [1e-6, 1e-4, 0, None],
    "hidden_act": ["gelu_new", None],
    "rope_theta": [9_999, 10_001.0, None],
    "max_position_embeddings": [514, 1024, None],
    "token_dropout": [None, "no"],
    "tie_word_embeddings": [None, "no"],
    "emb_layer_norm_before": [True, "no"],
    "is_folding_model": [True],
    "is_decoder": [True],
    "add_cross_attention": [True],
    "rope_scaling": [{"type": "linear", "factor": 2.0}],
}


def test_all_settings_that_decide_are_tried() -> None:
    assert OTHER_VALUES.keys() == hugging_face._MUSTS.keys()


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in OTHER_VALUES.items() for v in vs])
def test_another_value_of_any_setting_is_refused(
    folder: Path, tmp_path: Path, name: str, value: object
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(WeightsError, match=str(path)):
        open_source(tmp_path / "m", TINY)


@pytest.mark.parametrize("name", sorted(OTHER_VALUES.keys() - {"model_type", "hidden_act"}))
def test_what_config_json_leaves_out_is_as_transformers_has_it(
    folder: Path, tmp_path: Path, name: str
) -> None:
    import transformers

    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/config.json"
    config = json.loads(path.read_text())
    config.pop(name, None)
    default = transformers.EsmConfig().to_dict().get(name)

    def opened(config: dict) -> object:
        path.write_text(json.dumps(config))
        try:
            return open_source(tmp_path / "m", TINY).token_dropout
        except WeightsError as error:
            return str(error).replace(", as it is where nothing is said", "")

    assert opened(config) == opened({**config, name: default})


@pytest.mark.parametrize("has", [True, False])
def test_a_norm_in_front_is_there_if_config_json_says_so(tmp_path: Path, has: bool) -> None:
    case = HuggingFaceTests()
    case.config = {"position_embedding_type": "absolute", "emb_layer_norm_before": has}
    folder = case.write(tmp_path / "m")
    open_source(folder, TINY_ESM1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "emb_layer_norm_before": not has}))
    said = f"emb_layer_norm_before is {str(not has).lower()} in config.json, but"
    with pytest.raises(WeightsError, match=said):
        open_source(folder, TINY_ESM1)


def test_another_order_of_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    ours = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO"]
    (tmp_path / "m/vocab.txt").write_text("\n".join(ours))
    open_source(tmp_path / "m", TINY)
    ours[4], ours[5] = ours[5], ours[4]
    (tmp_path / "m/vocab.txt").write_text("\n".join(ours))
    with pytest.raises(WeightsError, match="numbers tokens in another order"):
        open_source(tmp_path / "m", TINY)


# -- adapters --------------------------------------------------------------------------------------


class AdapterTests(HuggingFaceTests):
    """A LoRA that peft wrote, over a base."""

    lora: ClassVar[dict] = {}

    def write(self, folder: Path) -> Path:
        import peft

        base = super().write(folder)
        self.adapter = str(folder.parent / "adapter")
        asked = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], **self.lora}
        model = peft.get_peft_model(self.model, peft.LoraConfig(**asked))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(self.adapter)
        self.model = model.merge_and_unload().eval()
        return base

    def test_without_it_the_numbers_are_others(self, where: Path) -> None:
        merged = self.fetch(where)
        adapter, self.adapter = self.adapter, ""
        base = self.fetch(where)
        assert merged.sha256 != base.sha256
        assert merged.source == f"{base.source} + {adapter}"
        name = "layers.1.self_attn.q_proj.weight"
        assert not torch.allclose(merged.open().get(name), base.open().get(name), atol=1e-3)

    def test_it_is_merged_as_peft_does(self, where: Path) -> None:
        source, theirs = self.fetch(where).open(), self.model.state_dict()
        for number in range(TINY.layers):
            for letter, part in zip("qv", ("query", "value"), strict=True):
                name = f"esm.encoder.layer.{number}.attention.self.{part}.weight"
                ours = source.get(f"layers.{number}.self_attn.{letter}_proj.weight")
                assert torch.equal(ours, theirs[name])


class TestLora(AdapterTests):
    pass


class TestRankStabilisedLora(AdapterTests):
    lora: ClassVar[dict] = {
        "use_rslora": True,
        "target_modules": ["query", "key", "value", "dense"],
    }


class TestLoraWithTrainedModules(AdapterTests):
    lora: ClassVar[dict] = {"modules_to_save": ["lm_head"]}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    case = AdapterTests()
    where = case.write(tmp_path_factory.mktemp("adapted") / "base")
    return where, Path(case.adapter)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"peft_type": "IA3"}, r"peft_type is 'IA3'; spotESM computes 'LORA' only"),
        ({"use_dora": True}, r"use_dora is True"),
        ({"bias": "all"}, r"bias is 'all'"),
        ({"rank_pattern": {"query": 4}}, r"rank_pattern is .* does not know"),
        ({"alpha_pattern": {"query": 4}}, r"alpha_pattern is .* does not know"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa'"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out is True"),
        ({"r": 0}, r"r is 0, and should be"),
        ({"r": "many"}, r"adapter_config\.json: does not say r and lora_alpha"),
        ({"lora_alpha": None}, r"adapter_config\.json: does not say r and lora_alpha"),
        ({"r": 4}, r"has shapes .*, and should have"),
        ({"base_model_name_or_path": "facebook/esm2_t6_8M_UR50D"}, r"made from esm2_t6_8M_UR50D"),
    ],
)
def test_what_an_adapter_says_is_computed_or_refused(
    adapted: tuple[Path, Path], tmp_path: Path, said: dict, line: str
) -> None:
    where, adapter = adapted
    shutil.copytree(adapter, tmp_path / "a")
    config: ClassVar[dict] = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({**config, **said}))
    with pytest.raises(WeightsError, match=line):
        open_source(where, TINY, tmp_path / "a")


def change_adapter(adapter: Path, copy: Path, change: Change) -> Path:
    """Copy an adapter, with other tensors; where the copy lies."""
    shutil.copytree(adapter, copy)
    path = copy / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return copy


def test_what_has_no_part_in_an_output_may_be_in_an_adapter(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    where, adapter = adapted
    name = "base_model.model.esm.embeddings.position_ids"
    more = change_adapter(
        adapter, tmp_path / "a", lambda state: state.update({name: torch.arange(9)})
    )
    with_more, plain = (open_source(where, TINY, folder) for folder in (more, adapter))
    assert with_more.names == plain.names
    for name in plain.names:
        assert torch.equal(with_more.get(name), plain.get(name))


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_adapter_holds_plain_numbers(
    adapted: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    where, adapter = adapted
    names = sorted(load_file(adapter / "adapter_model.safetensors"))
    name = names[0 if place == "first" else -1]

    def quantise(state: Tensors) -> None:
        state[name] = state[name].to(torch.int8)

    with pytest.raises(WeightsError, match=f"{name} is stored as int8"):
        open_source(where, TINY, change_adapter(adapter, tmp_path / "a", quantise))


def drop(part: str) -> Change:
    return lambda state: [state.pop(name) for name in sorted(state) if part in name]


def retarget(ours: str) -> Change:
    """Let the adapter of one layer be of what all share."""

    def change(state: Tensors) -> None:
        for name in sorted(n for n in state if "layer.0.attention.self.query" in n):
            other = name.replace("esm.encoder.layer.0.attention.self.query", ours)
            state[other] = state.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            drop("layer.0.attention.self.query.lora_A"),
            "half of the adapter of layers.0",
        ),
        (
            drop("layer.1.attention.self.value.lora_B"),
            "half of the adapter of layers.1",
        ),
        (drop("lora_"), "holds no LoRA that changes an embedding"),
        (retarget("esm.embeddings.word_embeddings"), "belongs to nothing in .* that it fits"),
        (retarget("lm_head.decoder"), "belongs to nothing in .* that it fits"),
        (retarget("esm.encoder.layer.9.attention.self.query"), "belongs to nothing in"),
    ],
)
def test_an_adapter_must_fit(
    adapted: tuple[Path, Path], tmp_path: Path, change: Change, said: str
) -> None:
    where, adapter = adapted
    with pytest.raises(WeightsError, match=said):
        open_source(where, TINY, change_adapter(adapter, tmp_path / "a", change))


def test_a_base_of_half_precision_is_merged_in_float32(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    where, adapter = adapted
    shutil.copytree(where, tmp_path / "half")
    path = tmp_path / "half/model.safetensors"
    save_file({name: x.bfloat16() for name, x in load_file(path).items()}, path)
    name = "layers.1.self_attn.v_proj.weight"
    merged = open_source(tmp_path / "half", TINY, adapter).get(name)
    base = open_source(tmp_path / "half", TINY).get(name)
    state = load_file(adapter / "adapter_model.safetensors")
    down, up = (
        next(x for n, x in state.items() if f"layer.1.attention.self.value.lora_{part}" in n)
        for part in "AB"
    )
    assert (base.dtype, merged.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(merged, base.float() + 16 / 8 * (up @ down))


def test_an_adapter_beside_its_model_is_used_or_refused(
    adapted: tuple[Path, Path], tmp_path: Path
) -> None:
    """transformers merges it unasked."""
    where, adapter = adapted
    both = tmp_path / "both"
    shutil.copytree(where, both)
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    with pytest.raises(WeightsError, match="holds an adapter beside the model"):
        open_source(both, TINY)
    name = "layers.1.self_attn.q_proj.weight"
    wanted = open_source(where, TINY, adapter).get(name)
    assert torch.equal(open_source(both, TINY, both).get(name), wanted)
    base = open_source(both / "model.safetensors", TINY).get(name)
    assert torch.equal(base, open_source(where, TINY).get(name))


def test_an_adapter_is_no_model_and_a_model_no_adapter(adapted: tuple[Path, Path]) -> None:
    where, adapter = adapted
    with pytest.raises(WeightsError, match="an adapter, not a model"):
        open_source(adapter, TINY)
    with pytest.raises(WeightsError, match="no adapter"):
        open_source(where, TINY, where)
