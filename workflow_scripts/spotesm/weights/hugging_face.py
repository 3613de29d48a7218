"""Models as Hugging Face's transformers keeps them: its names of tensors, its config.json."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from spotesm.base.failures import WeightsError
from spotesm.sequences.alphabet import RESIDUES, VOCABULARY_SIZE
from spotesm.weights.architectures import ARCHITECTURES, ESM1_POSITIONS, FREQUENCIES, Architecture
from spotesm.weights.files import CONFIG, ModelFiles, read_settings
from spotesm.weights.settings import Must, check_settings
from spotesm.weights.tensors import FAMILIES, Read, Source, gather, tie_decoder

log = logging.getLogger(__name__)

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


def fair_esm_name(name: str) -> str | None:
    """Return what fair-esm calls a parameter of one of transformers' ESM models; None if none."""
    module, _, parameter = _WRAPPERS.sub("", name).rpartition(".")
    parameter = _OF_PARAMETER.get(parameter, parameter)
    if in_layer := _LAYER.fullmatch(module):
        renamed = _OF_LAYER.get(in_layer[2])
        return renamed and f"layers.{in_layer[1]}.{renamed}.{parameter}"
    renamed = _OF_MODEL.get(module)
    return renamed and f"{renamed}.{parameter}"


def is_harmless(name: str) -> bool:
    """Whether a tensor of a file has no part in any output."""
    return bool(_HARMLESS.fullmatch(_WRAPPERS.sub("", name)))


# -- config.json -----------------------------------------------------------------------------------

_ROTARY_BASE = 10_000
_MUSTS = {  # defaults are those of transformers' EsmConfig
    "model_type": Must(("esm",)),
    "vocab_size": Must((VOCABULARY_SIZE,)),
    "pad_token_id": Must((1,)),
    "mask_token_id": Must((32,)),
    "position_embedding_type": Must(("rotary", "absolute"), "absolute"),
    "layer_norm_eps": Must((1e-5,), 1e-12),
    "hidden_act": Must(("gelu",), "gelu"),
    "rope_theta": Must((_ROTARY_BASE,), _ROTARY_BASE),
    "max_position_embeddings": Must((ESM1_POSITIONS + 2,), ESM1_POSITIONS + 2),
    "token_dropout": Must((True, False), False),
    "tie_word_embeddings": Must((True, False), True),
    "emb_layer_norm_before": Must((True, False, None)),
    "is_folding_model": Must((False, None), False),
    "is_decoder": Must((False, None), False),
    "add_cross_attention": Must((False, None), False),
    "rope_scaling": Must((None,)),
}
_NO_NUMBERS = re.compile(
    "hidden_size|num_hidden_layers|num_attention_heads|intermediate_size|rope_parameters|"  # below
    "_name_or_path|architectures|transformers_version|(torch_)?dtype|use_cache|initializer_range|"
    ".*dropout(_prob)?|id2label|label2id|num_labels|problem_type|finetuning_task|return_dict.*|"
    "output_.*|vocab_list|bos_token_id|eos_token_id|cls_token_id|sep_token_id|tokenizer_class|"
    "task_specific_params|gradient_checkpointing|attn_implementation|_attn_implementation.*|"
    "chunk_size_feed_forward|prefix|torchscript|is_encoder_decoder|classifier_.*|"
    # How text was once generated, which old versions of transformers wrote for every model.
    "(max|min)_length|temperature|top_[kp]|typical_p|num_(beams|beam_groups|return_sequences)|"
    "(repetition|length|diversity)_penalty|encoder_no_repeat_ngram_size|no_repeat_ngram_size|"
    "early_stopping|do_sample|remove_invalid_values"
)


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
    _check_vocabulary(files.other("vocab.txt"))
    if path is None:
        return Said()
    config, where = read_settings(path), str(path)
    if config.get("esmfold_config") or config.get("is_folding_model"):
        raise WeightsError(f"{where}: an ESMFold, which predicts structures; take an ESM-2")
    check_settings(where, config, _MUSTS, lambda name: bool(_NO_NUMBERS.fullmatch(name)))
    _check_rope(where, config.get("rope_parameters"))
    rotary = config.get("position_embedding_type") == "rotary"
    family = "esm2" if rotary else "esm1"
    if family != architecture.family:
        raise WeightsError(
            f"{where}: says {FAMILIES[family]}, but model: name is {FAMILIES[architecture.family]}"
        )
    if rotary and config.get("emb_layer_norm_before"):
        raise WeightsError(f"{where}: emb_layer_norm_before is true, which no ESM-2 has")
    dim = architecture.embedding_dim
    for name, wanted in (
        ("hidden_size", dim),
        ("num_hidden_layers", architecture.layers),
        ("num_attention_heads", architecture.attention_heads),
        ("intermediate_size", 4 * dim),
    ):
        if config.get(name) != wanted:
            raise WeightsError(
                f"{where}: {name} is {config.get(name)}, but that of model: name is {wanted}"
            )
    check_origin(where, str(config.get("_name_or_path", "")), architecture)
    return Said(
        bool(config.get("token_dropout", False)),
        bool(config.get("tie_word_embeddings", True)),
        bool(config.get("emb_layer_norm_before")),
    )


def _check_rope(where: str, rope: object) -> None:
    if rope is None:
        return
    allowed = {"rope_theta": _ROTARY_BASE, "rope_type": "default"}
    if not isinstance(rope, dict) or any(allowed.get(k) != v for k, v in rope.items()):
        raise WeightsError(f"{where}: rope_parameters is {rope!r}; spotESM computes {allowed} only")


def _check_vocabulary(path: Path | None) -> None:
    """Check that tokens are numbered as everywhere else."""
    if path is None:
        return
    ours = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES.decode()]
    theirs = path.read_text(encoding="utf-8", errors="replace").split()
    if theirs[: len(ours)] != ours:
        raise WeightsError(f"{path}: numbers tokens in another order than ESM models do")


def check_origin(where: str, origin: str, architecture: Architecture) -> None:
    """Check that what a model was made from, if it is known by name, has the config's shape.

    Raises:
        WeightsError: it is another one.
    """
    name = PurePosixPath(origin).name
    if name in ARCHITECTURES and ARCHITECTURES[name] != architecture:
        raise WeightsError(f"{where}: made from {name}; set model: name to it")


# -- reading ---------------------------------------------------------------------------------------


def open_hugging_face(
    where: str, files: ModelFiles, found: Iterable[tuple[str, Read]], architecture: Architecture
) -> Source:
    """Return a model of transformers; `found` are the names in its files, and what reads each.

    Raises:
        WeightsError: what config.json says, or a tensor, is not what the engines compute.
    """
    said = read_config(files, architecture)
    tensors = gather(where, _rename(where, found))
    hint = f"; if the decoder was trained by itself, say tie_word_embeddings: false in {CONFIG}"
    tie_decoder(where, tensors, said.tied, hint)
    if FREQUENCIES in tensors:
        _check_frequencies(where, tensors[FREQUENCIES]())
    has_norm = "emb_layer_norm_before.weight" in tensors
    if said.norm_before is not None and said.norm_before != has_norm:
        raise WeightsError(
            f"{where}: emb_layer_norm_before is {str(said.norm_before).lower()} in {CONFIG}, but "
            f"the tensors of that norm are {'there' if has_norm else 'not there'}"
        )
    read = (*files.tensors, *(path for path in files.others if path.name == CONFIG))
    return Source(where, architecture, tensors, read, said.token_dropout)


def _rename(where: str, found: Iterable[tuple[str, Read]]) -> Iterator[tuple[str, str, Read]]:
    left_out, unknown = [], []
    for name, read in found:
        if "lora_" in name or ".base_layer." in name:
            raise WeightsError(
                f"{where}: holds an adapter that is not merged ({name}); save the model after "
                "peft's merge_and_unload, or give the base as model: weights and the folder that "
                "peft wrote as model: adapter"
            )
        bare = _WRAPPERS.sub("", name)
        renamed = FREQUENCIES if _ROTARY.fullmatch(bare) else fair_esm_name(name)
        if renamed:
            yield renamed, name, read
        else:
            (left_out if is_harmless(name) else unknown).append(name)
    if unknown:
        raise WeightsError(
            f"{where}: holds {', '.join(sorted(unknown)[:4])}, which no ESM-1b, ESM-1v or ESM-2 "
            "has; it is another model, or a part of one"
        )
    if left_out:
        log.info("%s: has no part in any output: %s", where, ", ".join(sorted(left_out)))


def _check_frequencies(where: str, found: torch.Tensor) -> None:
    """Check that they are the formula's; transformers uses those of the file, and so do we.

    Half precision rounds them by up to 0.4%.
    """
    exponents = torch.arange(len(found)) / len(found)
    if not torch.allclose(found.float(), 1.0 / _ROTARY_BASE**exponents, rtol=1e-2, atol=0):
        raise WeightsError(f"{where}: its rotary frequencies are not those of ESM-2")
