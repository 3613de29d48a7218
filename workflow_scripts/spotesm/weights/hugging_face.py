"""Models as Hugging Face's transformers keeps them: its names of tensors, its config.json."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from spotesm.base.failures import WeightsError
from spotesm.sequences.alphabet import VOCABULARY_SIZE
from spotesm.weights.architectures import (
    ESM1_POSITIONS,
    FREQUENCIES,
    ROTARY_BASE,
    Architecture,
)
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
    tie_decoder,
)

# -- names -----------------------------------------------------------------------------------------

# Of peft, of training on several GPUs, of Lightning's modules, of torch.compile.
_WRAPPERS = re.compile(r"^(base_model\.model\.|module\.|model\.|_orig_mod\.)*(esm\.)?")
_OF_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}
# Files of some versions of transformers have the older names of a norm's parameters.
_OF_PARAMETER = {"gamma": "weight", "beta": "bias"}
_OF_MODEL = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.layer_norm": "emb_layer_norm_before",
    "encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "contact_head.regression": "contact_head.regression",
    "lm_head": "lm_head",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
    "lm_head.decoder": "lm_head",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
# One a layer, or one for all; transformers 5 writes a star where a layer's number was.
_ROTARY = re.compile(r"(encoder\.layer\.(\d+|\*)\.attention\.self\.)?rotary_embeddings\.inv_freq")
# Of a model, but of no embedding: a counter, and what classifiers and pooling put behind.
_HARMLESS = re.compile(r"embeddings\.position_ids|(pooler|classifier)\..+")


def _parts_of(name: str) -> tuple[Part, ...]:
    bare = _WRAPPERS.sub("", name)
    if _ROTARY.fullmatch(bare):
        return (Part(FREQUENCIES),)
    module, _, parameter = bare.rpartition(".")
    parameter = _OF_PARAMETER.get(parameter, parameter)
    if in_layer := _LAYER.fullmatch(module):
        renamed = _OF_LAYER.get(in_layer[2])
        return (Part(f"layers.{in_layer[1]}.{renamed}.{parameter}"),) if renamed else ()
    renamed = _OF_MODEL.get(module)
    return (Part(f"{renamed}.{parameter}"),) if renamed else ()


# Ours are fair-esm's names.
NAMING = Naming(_parts_of, lambda name: bool(_HARMLESS.fullmatch(_WRAPPERS.sub("", name))))


def is_esm2(names: Iterable[str]) -> bool:
    """Whether some are what fair-esm or transformers call tensors of ESM-2's layers."""
    return any(".self_attn_layer_norm." in name or "encoder.layer." in name for name in names)


# -- config.json -----------------------------------------------------------------------------------

_MUSTS = {  # defaults are those of transformers' EsmConfig
    "model_type": Must(("esm",)),
    "vocab_size": Must((VOCABULARY_SIZE,)),
    "pad_token_id": Must((1,)),
    "mask_token_id": Must((32,)),
    "position_embedding_type": Must(("rotary", "absolute"), "absolute"),
    "layer_norm_eps": Must((1e-5,), 1e-12),
    "hidden_act": Must(("gelu",), "gelu"),
    "rope_theta": Must((ROTARY_BASE,), ROTARY_BASE),
    "max_position_embeddings": Must((ESM1_POSITIONS + 2,), ESM1_POSITIONS + 2),
    "token_dropout": Must((True, False), False),
    "tie_word_embeddings": Must((True, False), True),
    "emb_layer_norm_before": Must((True, False, None)),
    "is_folding_model": Must((False, None), False),
    "is_decoder": Must((False, None), False),
    "add_cross_attention": Must((False, None), False),
    "rope_scaling": Must((None,)),
}
_CHECKED_APART = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "rope_parameters",
)


def _is_harmless(name: str) -> bool:
    return name in _CHECKED_APART or is_harmless_in_config(name)


@dataclass(frozen=True)
class Said:
    """What config.json says that is honoured.

    Attributes:
        token_dropout: whether embeddings are scaled as training with masks wants it.
        tied: whether the decoder is the token embedding.
        norm_before: whether there is a norm behind the embedding; None if not said.
    """

    token_dropout: bool = True
    tied: bool = True
    norm_before: bool | None = None


def read_config(files: ModelFiles, architecture: Architecture) -> Said:
    """Read the config.json beside a model; without one, the model is as published.

    Raises:
        WeightsError: it is of another model, or says what is not computed here.
    """
    path = files.other(CONFIG)
    check_vocabulary(files.other("vocab.txt"))
    if path is None:
        return Said()
    config, where = read_settings(path), str(path)
    if config.get("esmfold_config") or config.get("is_folding_model"):
        raise WeightsError(f"{where}: an ESMFold, which predicts structures; take an ESM-2")
    check_settings(where, config, _MUSTS, _is_harmless)
    check_rope(where, config.get("rope_parameters"))
    rotary = config.get("position_embedding_type") == "rotary"
    family = "esm2" if rotary else "esm1"
    check_family(where, family, architecture, "says")
    if rotary and config.get("emb_layer_norm_before"):
        raise WeightsError(f"{where}: emb_layer_norm_before is true, which no ESM-2 has")
    sizes = {
        "hidden_size": architecture.embedding_dim,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.attention_heads,
        "intermediate_size": architecture.feed_forward_dim,
    }
    check_sizes(where, config, sizes)
    check_origin(where, str(config.get("_name_or_path", "")), architecture)
    return Said(
        bool(config.get("token_dropout", False)),
        bool(config.get("tie_word_embeddings", True)),
        bool(config.get("emb_layer_norm_before")),
    )


# -- reading ---------------------------------------------------------------------------------------


def open_hugging_face(
    where: str, files: ModelFiles, found: Iterable[tuple[str, Read]], architecture: Architecture
) -> Source:
    """Return a model of transformers; `found` are the names in its files, and what reads each.

    Raises:
        WeightsError: what config.json says, or a tensor, is not what the engines compute.
    """
    said = read_config(files, architecture)
    tensors = gather(where, rename(where, found, NAMING, "ESM-1b, ESM-1v or ESM-2"))
    hint = f"; if the decoder was trained by itself, say tie_word_embeddings: false in {CONFIG}"
    tie_decoder(where, tensors, said.tied, hint)
    if FREQUENCIES in tensors:
        # transformers uses those of the file, and so do we.
        check_frequencies(where, tensors[FREQUENCIES]())
    has_norm = "emb_layer_norm_before.weight" in tensors
    if said.norm_before is not None and said.norm_before != has_norm:
        raise WeightsError(
            f"{where}: emb_layer_norm_before is {str(said.norm_before).lower()} in {CONFIG}, but "
            f"the tensors of that norm are {'there' if has_norm else 'not there'}"
        )
    return Source(where, architecture, tensors, files.with_config, said.token_dropout)
