"""ESM C as transformers, its first release, the hub's research form, and ESM++ keep it.

Our names are those of transformers' `EsmcModel`; within a layer, the other forms call them

    ours                            first release, ESM++        research form
    input_layernorm.weight          attn.layernorm_qkv.0.weight attn.layernorm_qkv.layer_norm_weight
    self_attn.{q,k,v}_proj.weight   attn.layernorm_qkv.1.weight attn.layernorm_qkv.weight
    self_attn.q_norm.weight         attn.q_ln.weight            attn.q_ln.weight
    self_attn.o_proj.weight         attn.out_proj.weight        attn.out_proj.weight
    post_attention_layernorm.weight ffn.0.weight                ffn.layer_norm_weight
    mlp.{gate,up}_proj.weight       ffn.1.weight                ffn.fc1_weight
    mlp.down_proj.weight            ffn.3.weight                ffn.fc2_weight

Several of ours in one tensor lie one below another. Sources: transformers 5.23 (models/esmc and
`convert_esmc_checkpoint.py`), esm 3.2.1, FastPLMs 1.0.
"""

import re
from collections.abc import Collection, Iterable

from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import FREQUENCIES, ROTARY_BASE, Architecture
from spotesm.weights.files import CONFIG, ModelFiles, read_settings
from spotesm.weights.settings import (
    Must,
    check_origin,
    check_rope,
    check_settings,
    check_sizes,
    check_vocabulary,
    is_harmless_in_config,
)
from spotesm.weights.tensors import (
    Naming,
    Part,
    Read,
    Source,
    check_family,
    check_frequencies,
    gather,
    rename,
)

# -- names -----------------------------------------------------------------------------------------

# Of peft, of training on several GPUs, of Lightning's modules, of torch.compile.
_WRAPPERS = re.compile(r"^(base_model\.model\.|module\.|model\.|_orig_mod\.)*(esmc\.)?")
_LAYER = re.compile(r"(?:layers|transformer\.blocks)\.(\d+)\.(.+)")


def _one_below_another(*names: str) -> tuple[Part, ...]:
    return tuple(Part(name, index, len(names)) for index, name in enumerate(names))


_QKV = _one_below_another(*(f"self_attn.{part}_proj.weight" for part in "qkv"))
_GATE_UP = _one_below_another("mlp.gate_proj.weight", "mlp.up_proj.weight")
_NORMS = {"attn.layernorm_qkv": "input_layernorm", "ffn": "post_attention_layernorm"}
_OF_LAYER: dict[str, tuple[Part, ...]] = {
    **{
        name: (Part(name),)
        for name in (
            *(f"{norm}.{kind}" for norm in _NORMS.values() for kind in ("weight", "bias")),
            *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
            *(f"self_attn.{part}_norm.weight" for part in "qk"),
            *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        )
    },
    **{
        f"{theirs}{form}{kind}": (Part(f"{ours}.{kind}"),)
        for theirs, ours in _NORMS.items()
        for form in (".0.", ".layer_norm_")
        for kind in ("weight", "bias")
    },
    **{f"attn.{part}_ln.weight": (Part(f"self_attn.{part}_norm.weight"),) for part in "qk"},
    "attn.layernorm_qkv.1.weight": _QKV,
    "attn.layernorm_qkv.weight": _QKV,
    "attn.out_proj.weight": (Part("self_attn.o_proj.weight"),),
    "ffn.1.weight": _GATE_UP,
    "ffn.fc1_weight": _GATE_UP,
    "ffn.3.weight": (Part("mlp.down_proj.weight"),),
    "ffn.fc2_weight": (Part("mlp.down_proj.weight"),),
}
_OF_MODEL = {
    "embed_tokens.weight": "embed_tokens.weight",
    "embed.weight": "embed_tokens.weight",
    "norm.weight": "norm.weight",
    "transformer.norm.weight": "norm.weight",
    **{
        f"{head}.{kind}": f"{ours}.{kind}"
        for ours, heads in (
            ("lm_head.dense", ("lm_head.dense", "lm_head.0", "sequence_head.0")),
            ("lm_head.layer_norm", ("lm_head.layer_norm", "lm_head.2", "sequence_head.2")),
            ("lm_head", ("lm_head.decoder", "lm_head.3", "sequence_head.3")),
        )
        for head in heads
        for kind in ("weight", "bias")
    },
}
_ROTARY = re.compile(r"(.+\.)?(rotary|rotary_emb)\.(original_)?inv_freq")
# Of a model, but of no embedding: what Transformer Engine notes for FP8, what classifiers put
# behind, and the sparse autoencoders that ESM++ carries.
_HARMLESS = re.compile(r"(.+\.)?_extra_state|(classifier|score|_sae_models)\..+")
_TELLING = re.compile(
    r"transformer\.(blocks|norm)\.|layers\.\d+\.(\w+_layernorm|mlp|self_attn\.(q_norm|o_proj))\."
)
_ESM3 = re.compile(r"\.geom_attn\.")
_ESME = re.compile(r"layers\.\d+\.(self_attn\.[qkv]|final\.\d+.*)\.weight")


def _parts_of(name: str) -> tuple[Part, ...]:
    bare = _WRAPPERS.sub("", name)
    if _ROTARY.fullmatch(bare):
        return (Part(FREQUENCIES),)
    if in_layer := _LAYER.fullmatch(bare):
        parts = _OF_LAYER.get(in_layer[2], ())
        return tuple(Part(f"layers.{in_layer[1]}.{p.name}", p.index, p.shares) for p in parts)
    return (Part(_OF_MODEL[bare]),) if bare in _OF_MODEL else ()


NAMING = Naming(_parts_of, lambda name: bool(_HARMLESS.fullmatch(_WRAPPERS.sub("", name))))


def is_esmc(names: Iterable[str]) -> bool:
    """Whether these are names of tensors of an ESM C, or of what is kept as it is."""
    bare = [_WRAPPERS.sub("", name) for name in names]
    return any(_TELLING.match(name) or _ESME.fullmatch(name) for name in bare)


# -- config.json -----------------------------------------------------------------------------------

_ESMC, _ESMPP = "esmc", "ESMplusplus"  # model_type of transformers and the research form; of ESM++
_MUSTS = {  # defaults are those of transformers' EsmcConfig
    "model_type": Must((_ESMC, _ESMPP)),
    "vocab_size": Must((64,), 64),
    "bos_token_id": Must((0, None), 0),
    "pad_token_id": Must((1,), 1),
    "eos_token_id": Must((2, None), 2),
    "mask_token_id": Must((32,), 32),
    "hidden_act": Must(("silu",), "silu"),
    "rope_theta": Must((ROTARY_BASE,), ROTARY_BASE),
    "rope_scaling": Must((None,)),
    "attention_bias": Must((False,), False),
    "mlp_bias": Must((False,), False),
    # It has no key for this; a file that says another one means something by it.
    **{name: Must((1e-5,), 1e-5) for name in ("layer_norm_eps", "rms_norm_eps", "norm_eps")},
    "tie_last_hidden_states": Must((True, None)),
    "is_decoder": Must((False, None), False),
    "add_cross_attention": Must((False, None), False),
}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_SIZES_OF_RESEARCH = ("d_model", "n_layers", "n_heads")
_DEFAULT_SIZES = {
    "hidden_size": 2560,
    "num_hidden_layers": 80,
    "num_attention_heads": 40,
    "intermediate_size": 6912,
}
_CHECKED_APART = (
    *(*_SIZES, *_SIZES_OF_RESEARCH, "intermediate_size"),
    *("num_key_value_heads", "head_dim", "rope_parameters"),
)
# The decoder is a tensor of its own, and positions turn features, whatever these say.
_NO_NUMBERS = ("tie_word_embeddings", "max_position_embeddings", "attn_backend", "auto_map")


def _is_harmless(name: str) -> bool:
    return name in (*_CHECKED_APART, *_NO_NUMBERS) or is_harmless_in_config(name)


def _check_config(files: ModelFiles, architecture: Architecture) -> None:
    """Check the config.json beside a model; without one, the model is as published.

    Raises:
        WeightsError: it is of another model, or says what is not computed here.
    """
    path = files.other(CONFIG)
    check_vocabulary(files.other("vocab.txt"))
    if path is None:
        return
    config, where = read_settings(path), str(path)
    check_settings(where, config, _MUSTS, _is_harmless)
    check_rope(where, config.get("rope_parameters"))
    heads = architecture.attention_heads
    sizes = (architecture.embedding_dim, architecture.layers, heads)
    if _SIZES_OF_RESEARCH[0] in config:
        check_sizes(where, config, dict(zip(_SIZES_OF_RESEARCH, sizes, strict=True)))
    elif config["model_type"] == _ESMPP:
        check_sizes(where, config, dict(zip(_SIZES, sizes, strict=True)))
    else:
        wanted = dict(zip(_SIZES, sizes, strict=True))
        wanted["intermediate_size"] = architecture.feed_forward_dim
        check_sizes(where, {**_DEFAULT_SIZES, **config}, wanted)
    derived = {"num_key_value_heads": heads, "head_dim": architecture.embedding_dim // heads}
    said = {name: config[name] for name in derived if config.get(name) is not None}
    check_sizes(where, said, {name: derived[name] for name in said})
    check_origin(where, str(config.get("_name_or_path", "")), architecture)


# -- reading ---------------------------------------------------------------------------------------


def open_esmc(
    where: str,
    files: ModelFiles,
    found: Collection[tuple[str, Read]],
    architecture: Architecture,
) -> Source:
    """Return an ESM C, whatever form it has; `found` are its files' names, and what reads each.

    Raises:
        WeightsError: an ESM-2 is asked for, or what config.json says, or a tensor, is not what
            the engine computes.
    """
    _refuse_relatives(where, [_WRAPPERS.sub("", name) for name, _ in found])
    check_family(where, "esmc", architecture)
    _check_config(files, architecture)
    tensors = gather(where, rename(where, found, NAMING, "ESM C"))
    # Of use to nobody but old files: every implementation computes them anew.
    if frequencies := tensors.pop(FREQUENCIES, None):
        check_frequencies(where, frequencies())
    return Source(where, architecture, tensors, files.with_config)


def _refuse_relatives(where: str, names: Iterable[str]) -> None:
    for name in names:
        if _ESM3.search(name):
            raise WeightsError(f"{where}: an ESM3, which is not computed ({name}); take an ESM C")
        if _ESME.fullmatch(name):
            raise WeightsError(
                f"{where}: an ESM C in the names of ESME ({name}), which are not read; take it as "
                "it was published, such as hf:biohub/ESMC-600M"
            )
