"""ESM C in every form that it has: transformers' own, and, by hand, the names of the others."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from models import TINY, TINY_ESMC, esmc_config, make_esmc, write_fair_esm
from safetensors.torch import load_file, save_file
from source_contract import SEQUENCE, SourceTests, Tensors, Values, whole
from spotesm.base.failures import WeightsError
from spotesm.sequences.alphabet import tokenise
from spotesm.weights import esmc
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.sources import open_source

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "peft"))),
    reason="needs transformers and peft",
)
TOKENS = torch.from_numpy(tokenise(SEQUENCE)).long()[None]
# Within a layer: transformers' names, one below another, and what two other forms call them.
RELEASE = {
    ("input_layernorm.weight",): "attn.layernorm_qkv.0.weight",
    ("input_layernorm.bias",): "attn.layernorm_qkv.0.bias",
    tuple(f"self_attn.{p}_proj.weight" for p in "qkv"): "attn.layernorm_qkv.1.weight",
    ("self_attn.q_norm.weight",): "attn.q_ln.weight",
    ("self_attn.k_norm.weight",): "attn.k_ln.weight",
    ("self_attn.o_proj.weight",): "attn.out_proj.weight",
    ("post_attention_layernorm.weight",): "ffn.0.weight",
    ("post_attention_layernorm.bias",): "ffn.0.bias",
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"): "ffn.1.weight",
    ("mlp.down_proj.weight",): "ffn.3.weight",
}
RESEARCH = {
    **RELEASE,
    ("input_layernorm.weight",): "attn.layernorm_qkv.layer_norm_weight",
    ("input_layernorm.bias",): "attn.layernorm_qkv.layer_norm_bias",
    tuple(f"self_attn.{p}_proj.weight" for p in "qkv"): "attn.layernorm_qkv.weight",
    ("post_attention_layernorm.weight",): "ffn.layer_norm_weight",
    ("post_attention_layernorm.bias",): "ffn.layer_norm_bias",
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"): "ffn.fc1_weight",
    ("mlp.down_proj.weight",): "ffn.fc2_weight",
}
HEAD = {"dense": 0, "layer_norm": 2, "decoder": 3}


def renamed(
    state: Tensors, names: dict[tuple[str, ...], str], trunk: str = "", head: str = "sequence_head"
) -> Tensors:
    """The tensors of `EsmcForMaskedLM` under other names."""
    found = {
        f"{trunk}embed.weight": state["esmc.embed_tokens.weight"],
        f"{trunk}transformer.norm.weight": state["esmc.norm.weight"],
    }
    for number in range(TINY_ESMC.layers):
        for ours, theirs in names.items():
            parts = [state[f"esmc.layers.{number}.{name}"] for name in ours]
            found[f"{trunk}transformer.blocks.{number}.{theirs}"] = torch.cat(parts)
    for part, place in HEAD.items():
        for kind in ("weight", "bias"):
            found[f"{head}.{place}.{kind}"] = state[f"lm_head.{part}.{kind}"]
    return found


class EsmcTests(SourceTests):
    """`save_pretrained` of a class of transformers."""

    architecture = TINY_ESMC
    kind = "EsmcForMaskedLM"
    saved: ClassVar[dict] = {}

    def make(self) -> Any:
        return make_esmc(self.architecture, self.kind)

    def write(self, folder: Path) -> Path:
        self.model = self.make()
        self.model.save_pretrained(folder, **self.saved)
        return folder

    def expected(self, where: Path) -> Values:
        trunk = getattr(self.model, "esmc", self.model)
        with torch.inference_mode():
            values = {"hidden": trunk(TOKENS).last_hidden_state[0]}
            if self.kind == "EsmcForMaskedLM":
                values["logits"] = self.model(TOKENS).logits[0]
        return values


class TestForMaskedLM(EsmcTests):
    pass


class TestShards(EsmcTests):
    saved: ClassVar[dict] = {"max_shard_size": "20KB"}

    def tensor_file(self, where: Path) -> Path:
        files = sorted(where.glob("*.safetensors"))
        return next(file for file in files if any("norm.bias" in name for name in load_file(file)))

    def test_one_shard_alone_is_refused(self, where: Path) -> None:
        for shard in where.glob("*.safetensors"):
            with pytest.raises(WeightsError, match="or one of several files"):
                open_source(shard, TINY_ESMC)


class TestBareModel(EsmcTests):
    kind = "EsmcModel"


class TestSequenceClassification(EsmcTests):
    kind = "EsmcForSequenceClassification"


class TestTokenClassification(EsmcTests):
    kind = "EsmcForTokenClassification"


class TestHalfPrecision(EsmcTests):
    """A bfloat16 file is what it says, computed in float32."""

    def make(self) -> Any:
        return super().make().bfloat16()

    def expected(self, where: Path) -> Values:
        self.model = self.model.float()
        self.model.esmc.rotary_emb = type(self.model.esmc.rotary_emb)(self.model.config)
        return super().expected(where)


class TestFirstRelease(EsmcTests):
    """A flat state dict in a `.pth`; `module.` and old frequencies do not matter."""

    def write(self, folder: Path) -> Path:
        super().write(folder / "theirs")
        state = self.rename(self.model.state_dict())
        shutil.rmtree(folder / "theirs")
        return self.save(state, folder)

    def rename(self, state: Tensors) -> Tensors:
        return renamed(state, RELEASE)

    def save(self, state: Tensors, folder: Path) -> Path:
        torch.save(state, folder / "esmc_300m_2024_12_v0.pth")
        return folder / "esmc_300m_2024_12_v0.pth"


class TestFirstReleaseWithFrequencies(TestFirstRelease):
    def rename(self, state: Tensors) -> Tensors:
        frequencies = 1e4 ** (-torch.arange(0, 8, 2) / 8)
        more = {
            f"transformer.blocks.{n}.attn.rotary.inv_freq": frequencies.half()
            for n in range(TINY_ESMC.layers)
        }
        return {f"module.{n}": x for n, x in (super().rename(state) | more).items()}


class TestRepositoryOfFirstRelease(TestFirstRelease):
    """`esmc-300m-2024-12` of the hub: a folder with the file, and nothing of transformers."""

    def save(self, state: Tensors, folder: Path) -> Path:
        (folder / "data/weights").mkdir(parents=True)
        super().save(state, folder / "data/weights")
        return folder

    def tensor_file(self, where: Path) -> Path:
        return next(where.rglob("*.pth"))


class TestResearchForm(TestFirstRelease):
    """What the hub held under the name that transformers' form has now."""

    def rename(self, state: Tensors) -> Tensors:
        found = renamed(state, RESEARCH, "esmc.", "lm_head")
        layers = [f"esmc.transformer.blocks.{n}" for n in range(TINY_ESMC.layers)]
        notes = {f"{layer}.ffn._extra_state": torch.zeros(0) for layer in layers}
        return found | notes

    def save(self, state: Tensors, folder: Path) -> Path:
        save_file(state, folder / "model.safetensors")
        config = {"model_type": "esmc", "architectures": ["ESMCForMaskedLM"], "vocab_size": 64}
        config |= {"d_model": 16, "n_heads": 2, "n_layers": 2, "pad_token_id": 1}
        (folder / "config.json").write_text(json.dumps(config))
        return folder


class TestESMPlusPlus(TestFirstRelease):
    """FastPLMs' class, with the autoencoders that it may carry."""

    def rename(self, state: Tensors) -> Tensors:
        return renamed(state, RELEASE) | {"_sae_models.l5.encoder.weight": torch.ones(3, 3)}

    def save(self, state: Tensors, folder: Path) -> Path:
        save_file(state, folder / "model.safetensors")
        config = {
            "model_type": "ESMplusplus",
            "architectures": ["ESMplusplusForMaskedLM"],
            "auto_map": {"AutoModel": "modeling_esm_plusplus.ESMplusplusModel"},
            **{"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2},
            **{"num_hidden_layers": 2, "dropout": 0.0, "attn_backend": "sdpa"},
            "tie_word_embeddings": False,
        }
        (folder / "config.json").write_text(json.dumps(config))
        return folder


def test_every_form_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = make_esmc(TINY_ESMC)
    state = model.state_dict()
    forms: dict[str, Callable[[Path], Path]] = {
        "transformers": lambda folder: (model.save_pretrained(folder), folder)[1],
        "one file": lambda folder: saved(folder, state),
        "release": lambda folder: TestFirstRelease().save(renamed(state, RELEASE), folder),
        "research": lambda folder: TestResearchForm().save(
            TestResearchForm().rename(state), folder
        ),
        "ESM++": lambda folder: TestESMPlusPlus().save(TestESMPlusPlus().rename(state), folder),
    }
    first = None
    for name, write in forms.items():
        (tmp_path / name).mkdir()
        source = open_source(write(tmp_path / name), TINY_ESMC)
        first = first or source
        assert source.names == first.names
        for tensor in first.names:
            assert torch.equal(source.get(tensor), first.get(tensor)), (name, tensor)


# -- what is refused -------------------------------------------------------------------------------


def saved(folder: Path, state: Tensors) -> Path:
    save_file({name: x.contiguous().clone() for name, x in state.items()}, folder / "any.name")
    return folder / "any.name"


@pytest.fixture(scope="module")
def state() -> Tensors:
    torch.manual_seed(5)
    return dict(make_esmc(TINY_ESMC).state_dict())


def as_esm3(state: Tensors) -> Tensors:
    more = {"transformer.blocks.0.geom_attn.proj.weight": torch.ones(3, 3)}
    return renamed(state, RELEASE) | more


def as_esme(state: Tensors) -> Tensors:
    found = {"embed_tokens.weight": state["esmc.embed_tokens.weight"]}
    for number in range(2):
        for part in "qkv":
            weight = state[f"esmc.layers.{number}.self_attn.{part}_proj.weight"]
            found[f"layers.{number}.self_attn.{part}.weight"] = weight
    return found


def rows_too_many(state: Tensors) -> Tensors:
    name = "transformer.blocks.1.attn.layernorm_qkv.1.weight"
    found = renamed(state, RELEASE)
    return found | {name: torch.cat([found[name], torch.ones(1, 16)])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (as_esm3, r"an ESM3, which is not computed"),
        (as_esme, r"in the names of ESME .*self_attn\.[qkv]\.weight"),
        (lambda s: s | {"esmc.layers.0.mlp.gate_proj.bias": torch.ones(256)}, "gate_proj.bias, wh"),
        (lambda s: s | {"esmc.layers.0.self_attn.v_norm.weight": torch.ones(16)}, "v_norm.weight"),
        (rows_too_many, r"layers\.1\.self_attn\.q_proj\.weight is \(17, 16\), and should be"),
        (
            lambda s: s | {"esmc.rotary_emb.inv_freq": 5e5 ** (-torch.arange(0, 8, 2) / 8)},
            "its rotary frequencies are not those of ESM",
        ),
        (
            lambda s: s | {"esmc.layers.0.mlp.up_proj.lora_A.weight": torch.ones(4, 16)},
            "holds an adapter that is not merged",
        ),
        (
            lambda s: s | {"embed_tokens.weight": torch.ones(64, 16)},
            "are two values of one tensor, and differ",
        ),
        (lambda s: s | {"esmc.norm.bias": torch.ones(16)}, "holds esmc.norm.bias, which no ESM C"),
        (
            lambda s: s | {"esmc.embed_tokens.weight": torch.ones(33, 16)},
            r"embed_tokens.weight is \(33, 16\), and should be \(64, 16\)",
        ),
        (
            lambda s: {n: x for n, x in s.items() if "q_norm" not in n},
            r"q_norm.weight .*are missing",
        ),
        (
            lambda s: {n: x for n, x in s.items() if "lm_head.decoder" not in n},
            r"lm_head\.bias, lm_head\.weight are missing",
        ),
        (lambda s: {"what.weight": torch.ones(3)}, "holds what.weight, which no ESM C has"),
    ],
)
def test_nothing_in_a_file_is_ignored(
    state: Tensors, tmp_path: Path, change: Callable[[Tensors], Tensors], said: str
) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        open_source(saved(tmp_path, change(state)), TINY_ESMC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["fair-esm", "its state dict", "transformers", "in a folder"])
def test_an_esm2_under_the_name_of_an_esmc_is_refused(tmp_path: Path, form: str) -> None:
    where = tmp_path / "esm2.pt"
    if form == "fair-esm":
        write_fair_esm(TINY, where)
    elif form == "its state dict":
        write_fair_esm(TINY, where)
        where = saved(tmp_path, {n: open_source(where, TINY).get(n) for n in NAMES_OF_ESM2})
    elif form == "transformers":
        where = saved(tmp_path, whole())
    else:
        import transformers

        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.EsmConfig(
            **sizes,
            **{"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "intermediate_size": 64},
            **{"position_embedding_type": "rotary", "token_dropout": True, "layer_norm_eps": 1e-5},
        )
        where = tmp_path / "folder"
        transformers.EsmForMaskedLM(config).save_pretrained(where)
    with pytest.raises(WeightsError, match="an ESM-2, but model: name is an ESM C") as caught:
        open_source(where, TINY_ESMC)
    assert "\n" not in str(caught.value)


NAMES_OF_ESM2 = (
    "embed_tokens.weight",
    *(f"layers.0.self_attn_layer_norm.{kind}" for kind in ("weight", "bias")),
)


@pytest.mark.parametrize("form", ["folder", "file", "release"])
def test_an_esmc_under_the_name_of_an_esm2_is_refused(
    state: Tensors, tmp_path: Path, form: str
) -> None:
    where = tmp_path
    if form == "folder":
        make_esmc(TINY_ESMC).save_pretrained(where)
    else:
        where = saved(tmp_path, renamed(state, RELEASE) if form == "release" else state)
    for shape in (TINY, Architecture(2, 16, 2, "esm1")):
        with pytest.raises(WeightsError, match="holds an ESM C, but model: name is an ESM-"):
            open_source(where, shape)


def test_another_size_is_named(tmp_path: Path) -> None:
    """The first layers of a large one are no small one: the residuals are divided otherwise."""
    shape = Architecture(3, 16, 2, "esmc", has_regression=False)
    where = saved(tmp_path, make_esmc(shape).state_dict())
    with pytest.raises(WeightsError, match=r"holds a model of 3 layers and 16 dimensions, but"):
        open_source(where, TINY_ESMC)


# -- config.json -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EsmcTests().write(tmp_path_factory.mktemp("folder"))


def changed(folder: Path, copy: Path, drop: Iterable[str] = (), **said: object) -> Path:
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    for name in drop:
        config.pop(name, None)
    (copy / "config.json").write_text(json.dumps({**config, **said}))
    return copy


OTHER_VALUES = {  # of each setting that decides about numbers
    "model_type": ["esm", "llama", None],
    "vocab_size": [33, None],
    "bos_token_id": [1, 32],
    "pad_token_id": [0, None],
    "eos_token_id": [3, [2]],
    "mask_token_id": [31, None],
    "hidden_act": ["gelu", None],
    "rope_theta": [500_000.0, None],
    "rope_scaling": [{"rope_type": "linear", "factor": 2.0}],
    "attention_bias": [True, None],
    "mlp_bias": [True, None],
    "layer_norm_eps": [1e-6, None],
    "rms_norm_eps": [1e-6],
    "norm_eps": [1e-12],
    "tie_last_hidden_states": [False],
    "is_decoder": [True],
    "add_cross_attention": [True],
}


def test_all_settings_that_decide_are_tried() -> None:
    assert OTHER_VALUES.keys() == esmc._MUSTS.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((n, v) for n, vs in OTHER_VALUES.items() for v in vs),
        ("hidden_size", 32),
        ("num_hidden_layers", 3),
        ("num_attention_heads", 4),
        ("intermediate_size", 64),
        ("num_key_value_heads", 1),
        ("head_dim", 16),
        ("d_model", 32),
        ("rope_parameters", {"rope_theta": 500_000.0, "rope_type": "default"}),
        ("rope_parameters", {"rope_theta": 10_000.0, "rope_type": "linear", "factor": 2.0}),
        ("quantization_config", {"bits": 4}),
        ("sliding_window", 128),
    ],
)
def test_another_value_of_any_setting_is_refused(
    folder: Path, tmp_path: Path, name: str, value: object
) -> None:
    where = changed(folder, tmp_path / "m", **{name: value})
    with pytest.raises(WeightsError, match=re.escape(str(where / "config.json"))) as caught:
        open_source(where, TINY_ESMC)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"tie_word_embeddings": True},
        {"max_position_embeddings": 512},
        {"rope_theta": 10_000},
        {"num_key_value_heads": None, "head_dim": None},
        {"layer_norm_eps": 1e-5},
        {"attention_dropout": 0.5, "classifier_dropout": None, "initializer_range": 0.1},
        {"tie_last_hidden_states": True},
    ],
)
def test_settings_that_change_no_number_are_read_over(
    folder: Path, tmp_path: Path, said: dict
) -> None:
    open_source(changed(folder, tmp_path / "m", **said), TINY_ESMC)


def test_what_config_json_leaves_out_is_as_transformers_has_it(
    folder: Path, tmp_path: Path
) -> None:
    defaults = esmc_config(TINY_ESMC).__class__().to_dict()
    config = json.loads((folder / "config.json").read_text())
    derived = {"head_dim", "num_key_value_heads"}  # from the others, where they are left out
    told = config.keys() - derived - {"model_type", "rope_parameters"}
    for number, name in enumerate(sorted(told)):

        def opened(copy: str, number: int = number, name: str = name, **said: object) -> object:
            try:
                return open_source(
                    changed(folder, tmp_path / f"{copy}{number}", [name], **said), TINY_ESMC
                ).names
            except WeightsError as error:
                return str(error).partition(": ")[2].replace(", as it is where nothing is said", "")

        assert opened("left") == opened("said", **{name: defaults.get(name)}), name


# -- adapters --------------------------------------------------------------------------------------


class TestLora(EsmcTests):
    """A LoRA that peft wrote, over a base."""

    targets: ClassVar[list[str]] = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]

    def write(self, folder: Path) -> Path:
        import peft

        base = super().write(folder)
        self.adapter = str(folder.parent / "adapter")
        asked = peft.LoraConfig(r=4, lora_alpha=8, target_modules=self.targets)
        model = peft.get_peft_model(self.model, asked)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(self.adapter)
        self.model = model.merge_and_unload().eval()
        return base

    def test_it_is_merged_as_peft_does(self, where: Path) -> None:
        source, theirs = self.fetch(where).open(), self.model.state_dict()
        for name in source.names - {"lm_head.weight", "lm_head.bias"}:
            at = name if name.startswith("lm_head") else f"esmc.{name}"
            assert torch.equal(source.get(name), theirs[at]), name


class TestLoraOfTheHead(TestLora):
    targets: ClassVar[list[str]] = ["k_proj", "decoder"]


@pytest.mark.parametrize("form", ["release", "research"])
def test_a_lora_of_fused_matrices_falls_into_ours(
    state: Tensors, tmp_path: Path, form: str
) -> None:
    """As peft writes it over FastPLMs' class: one A, and B of three (or two) times the rows."""
    names = RELEASE if form == "release" else RESEARCH
    base = saved(tmp_path, renamed(state, names))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["fused"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(7)
    lora, expected = {}, {}
    for number in range(2):
        for ours, theirs in names.items():
            if len(ours) == 1:
                continue
            at = f"base_model.model.transformer.blocks.{number}.{theirs.removesuffix('.weight')}"
            rows = [len(state[f"esmc.layers.{number}.{name}"]) for name in ours]
            down = torch.randn(4, 16, generator=generator)
            up = torch.randn(sum(rows), 4, generator=generator)
            lora |= {f"{at}.lora_A.weight": down, f"{at}.lora_B.weight": up}
            for name, part in zip(ours, up.split(rows), strict=True):
                weight = state[f"esmc.layers.{number}.{name}"]
                expected[f"layers.{number}.{name}"] = weight + 2 * (part @ down)
    save_file(lora, adapter / "adapter_model.safetensors")
    if form == "research":  # whose matrices of the feed-forward network are no modules
        with pytest.raises(WeightsError, match="belongs to nothing"):
            open_source(base, TINY_ESMC, adapter)
        return
    source = open_source(base, TINY_ESMC, adapter)
    assert len(expected) == 10
    for name, weight in expected.items():
        assert torch.equal(source.get(name), weight)
    short = {n: x[:-1] if "lora_B" in n else x for n, x in lora.items()}
    save_file(short, adapter / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"has shapes .*, and should have"):
        open_source(base, TINY_ESMC, adapter)


def test_an_adapter_of_an_esm2_does_not_fit(state: Tensors, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    at = "base_model.model.esm.encoder.layer.0.attention.self.query"
    lora = {f"{at}.lora_A.weight": torch.ones(4, 16), f"{at}.lora_B.weight": torch.ones(16, 4)}
    save_file(lora, adapter / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="belongs to nothing in"):
        open_source(saved(tmp_path, state), TINY_ESMC, adapter)


# -- from the hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hf"


def test_pretrained_is_the_hub_s_and_names_its_commit(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub import add_repository

    shape = Architecture(2, 16, 2, "esmc", has_regression=False, hub="biohub/ESMC-300M")
    monkeypatch.setitem(ARCHITECTURES, "esmc_tiny", shape)
    manifest = tmp_path / "manifest.json"
    with pytest.raises(WeightsError, match="hf:biohub/ESMC-300M: cannot be had from the hub"):
        fetch_weights("esmc_tiny", "pretrained", manifest)
    commit = "ab" * 20
    make_esmc(TINY_ESMC).save_pretrained(add_repository(hub, "biohub/ESMC-300M", commit))
    fetch_weights("esmc_tiny", "pretrained", manifest)
    weights = Weights.read(manifest)
    assert weights.source == f"pretrained@{commit}"
    assert weights.open().has_logits


@pytest.mark.parametrize(
    "name", ["biohub/ESMC-600M", "Synthyra/ESMplusplus_large", "biohub/esmc-600m-2024-12"]
)
def test_a_name_of_the_hub_that_tells_another_size_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"hf:{name}: made from esmc_600m; set model: name"):
        fetch_weights("esmc_300m", f"hf:{name}", tmp_path / "manifest.json")


def test_load_file_of_a_saved_model_has_the_names_of_the_class(folder: Path) -> None:
    """Else this file would test names of its own."""
    saved_names = load_file(folder / "model.safetensors").keys()
    assert all(esmc.NAMING.parts_of(name) for name in saved_names)
    assert esmc.is_esmc(saved_names)
