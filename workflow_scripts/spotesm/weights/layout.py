"""The packed engine's own layout: tensors as it multiplies them, made from those of a model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spotesm.weights.architectures import FREQUENCIES, LM_HEAD, REGRESSION
from spotesm.weights.tensors import Source

LAYOUT = 1  # raise it when a tensor changes
ENDS = "ends"

# Training hid 15% of the residues, 80% of them behind the mask token, whose embedding is zero.
# ESM-2 scales every embedding down to keep the same mean without masks (Lin et al. 2023).
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8

_PRODUCTS = (
    ("attention_out", "self_attn.out_proj"),
    ("expand", "fc1"),
    ("contract", "fc2"),
)
_NORMS = (
    ("attention_norm", "self_attn_layer_norm"),
    ("feed_forward_norm", "final_layer_norm"),
)
_OF_ENDS = {
    "final_norm.weight": "emb_layer_norm_after.weight",
    "final_norm.bias": "emb_layer_norm_after.bias",
    **{name.replace("lm_head", "logits_head"): name for name in LM_HEAD},
    **{name: name for name in REGRESSION},
    "rotation": FREQUENCIES,
}


def arrange(source: Source, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the ends of an ESM-2, then each layer, as named tensors.

    What is multiplied is in `dtype`; norms, embedding and heads are in float32. What a model lacks
    is left out. May share memory with the source.
    """
    yield ENDS, _ends(source)
    for number in range(source.architecture.layers):
        yield f"layer-{number:02d}", _layer(source, number, dtype)


def _ends(source: Source) -> dict[str, Tensor]:
    scale = TOKEN_DROPOUT_SCALE if source.token_dropout else 1.0
    ends = {"embedding": source.get("embed_tokens.weight").float() * scale}
    for ours, theirs in _OF_ENDS.items():
        if theirs in source.names:
            ends[ours] = source.get(theirs).float()
    return ends


def _layer(source: Source, number: int, dtype: torch.dtype) -> dict[str, Tensor]:
    def get(name: str) -> Tensor:
        return source.get(f"layers.{number}.{name}")

    architecture, prefix = source.architecture, f"layers.{number}"
    rows = pair_halves(architecture.embedding_dim, architecture.attention_heads)
    tensors: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        query, key, value = (get(f"self_attn.{part}_proj.{kind}") for part in "qkv")
        fused = torch.empty((3 * len(rows), *query.shape[1:]), dtype=dtype)
        for place, part in zip(
            fused.split(len(rows)), (query[rows], key[rows], value), strict=True
        ):
            place.copy_(part)
        tensors[f"{prefix}.qkv_{kind}"] = fused
        for ours, theirs in _PRODUCTS:
            tensors[f"{prefix}.{ours}.{kind}"] = get(f"{theirs}.{kind}").to(dtype)
        for ours, theirs in _NORMS:
            tensors[f"{prefix}.{ours}.{kind}"] = get(f"{theirs}.{kind}").float()
    return tensors


def pair_halves(dim: int, heads: int) -> Tensor:
    """Return the order of all features in which, within a head, i + head_dim / 2 follows i.

    Rotary embedding turns these two together. Side by side they are one complex number, which
    is several times faster to turn; scores stay the same, as queries and keys are both reordered.
    """
    return torch.arange(dim).view(heads, 2, -1).transpose(1, 2).flatten()
