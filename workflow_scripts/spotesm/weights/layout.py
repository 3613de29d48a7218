"""The packed engine's own layout: tensors as it multiplies them, made from those of a model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spotesm.weights.architectures import FREQUENCIES, LM_HEAD, REGRESSION
from spotesm.weights.tensors import Source

LAYOUT = 1  # raise it when a tensor changes
ENDS = "ends"

# Training hid 15% of the residues, 80% of them behind the mask token, whose embedding is zero.
# ESM-2 scales every embedding down to keep the same mean without masks (Lin et al. 2023).
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8

# By our name, that of the source.
_HEADS = {
    **{name.replace("lm_head", "logits_head"): name for name in LM_HEAD},
    **{name: name for name in REGRESSION},
    "rotation": FREQUENCIES,
}


def arrange(source: Source, dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the ends of a model, then each layer, as named tensors.

    What is multiplied is in `dtype`; norms, embedding and heads are in float32. What a model lacks
    is left out. May share memory with the source.
    """
    ends, layer = ARRANGEMENTS[source.architecture.family]
    yield ENDS, ends(source)
    for number in range(source.architecture.layers):
        tensors = layer(_Layer(source, number, dtype))
        named = {f"layers.{number}.{name}": tensor for name, tensor in tensors.items()}
        yield f"layer-{number:02d}", named


@dataclass(frozen=True)
class _Layer:
    """The tensors of one layer of a model."""

    source: Source
    number: int
    dtype: torch.dtype

    def get(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        return self.source.get(f"layers.{self.number}.{name}")

    def product(self, name: str) -> Tensor:
        """Return what is multiplied by."""
        return self.get(name).to(self.dtype)

    def norm(self, ours: str, theirs: str) -> dict[str, Tensor]:
        """Return weight and bias of a norm."""
        return {f"{ours}.{kind}": self.get(f"{theirs}.{kind}").float() for kind in _KINDS}

    def stack(self, names: Iterable[str], rows: Tensor | None = None) -> Tensor:
        """Return what is multiplied by in one product, one below another.

        Args:
            rows: the order of the first two's rows.
        """
        parts = [self.get(name) for name in names]
        stacked = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=self.dtype)
        for number, (place, part) in enumerate(
            zip(stacked.split(list(map(len, parts))), parts, strict=True)
        ):
            place.copy_(part if rows is None or number > 1 else part[rows])
        return stacked

    @property
    def paired(self) -> Tensor:
        """The order of queries' and keys' features."""
        shape = self.source.architecture
        return pair_halves(shape.embedding_dim, shape.attention_heads)


_KINDS = ("weight", "bias")


def _ends_of_esm2(source: Source) -> dict[str, Tensor]:
    scale = TOKEN_DROPOUT_SCALE if source.token_dropout else 1.0
    norm = {f"final_norm.{kind}": f"emb_layer_norm_after.{kind}" for kind in _KINDS}
    return _ends(source, source.get("embed_tokens.weight").float() * scale, norm)


def _ends_of_esmc(source: Source) -> dict[str, Tensor]:
    embedding = source.get("embed_tokens.weight").float()
    return _ends(source, embedding, {"final_norm.weight": "norm.weight"})


def _ends(source: Source, embedding: Tensor, norm: dict[str, str]) -> dict[str, Tensor]:
    ends = {"embedding": embedding}
    for ours, theirs in {**norm, **_HEADS}.items():
        if theirs in source.names:
            ends[ours] = source.get(theirs).float()
    return ends


def _layer_of_esm2(layer: _Layer) -> dict[str, Tensor]:
    tensors = layer.norm("attention_norm", "self_attn_layer_norm")
    tensors |= layer.norm("feed_forward_norm", "final_layer_norm")
    for kind in _KINDS:
        qkv = (f"self_attn.{part}_proj.{kind}" for part in "qkv")
        tensors[f"qkv_{kind}"] = layer.stack(qkv, layer.paired)
        tensors[f"attention_out.{kind}"] = layer.product(f"self_attn.out_proj.{kind}")
        tensors[f"expand.{kind}"] = layer.product(f"fc1.{kind}")
        tensors[f"contract.{kind}"] = layer.product(f"fc2.{kind}")
    return tensors


def _layer_of_esmc(layer: _Layer) -> dict[str, Tensor]:
    rows = layer.paired
    return {
        **layer.norm("attention_norm", "input_layernorm"),
        "qkv_weight": layer.stack((f"self_attn.{part}_proj.weight" for part in "qkv"), rows),
        # Over all features of a token, so that their order is that of the rows.
        "query_norm.weight": layer.get("self_attn.q_norm.weight").float()[rows],
        "key_norm.weight": layer.get("self_attn.k_norm.weight").float()[rows],
        "attention_out.weight": layer.product("self_attn.o_proj.weight"),
        **layer.norm("feed_forward_norm", "post_attention_layernorm"),
        "gate_up.weight": layer.stack(f"mlp.{part}_proj.weight" for part in ("gate", "up")),
        "contract.weight": layer.product("mlp.down_proj.weight"),
    }


# By family: the ends of a model, and a layer.
ARRANGEMENTS = {
    "esm2": (_ends_of_esm2, _layer_of_esm2),
    "esmc": (_ends_of_esmc, _layer_of_esmc),
}


def pair_halves(dim: int, heads: int) -> Tensor:
    """Return the order of all features in which, within a head, i + head_dim / 2 follows i.

    Rotary embedding turns these two together. Side by side they are one complex number, which
    is several times faster to turn; scores stay the same, as queries and keys are both reordered.
    """
    return torch.arange(dim).view(heads, 2, -1).transpose(1, 2).flatten()
