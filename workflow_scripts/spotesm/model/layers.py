"""The layers of each family: what they compute before and after attention, on packed tokens.

All are pre-norm transformer layers; queries, keys and values come from one product.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, dtype, nn

from spotesm.model.products import FusedProducts, Products
from spotesm.model.regions import Regions
from spotesm.weights.architectures import Architecture


class Affine(nn.Module):
    """A weight, and mostly a bias, that are there already: nothing is initialised."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = fixed(weight)
        self.bias = None if bias is None else fixed(bias)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], name: str) -> Self:
        """Take `NAME.weight` and, where it is there, `NAME.bias`."""
        return cls(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the product plus the bias."""
        return F.linear(x, self.weight, self.bias)


class Norm(Affine):
    """Layer normalisation over the last axis."""

    eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed rows."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class ESM2Layer(nn.Module):
    """fair-esm's `TransformerLayer`."""

    regions: ClassVar[tuple[str, ...]] = ("norm", "add_norm", "rotate")

    def __init__(
        self, tensors: Mapping[str, Tensor], architecture: Architecture, dtype: dtype
    ) -> None:
        super().__init__()
        self.heads = architecture.attention_heads
        self.dtype = dtype
        self.attention_norm = Norm.of(tensors, "attention_norm")
        self.qkv_weight = fixed(tensors["qkv_weight"])
        self.qkv_bias = fixed(tensors["qkv_bias"])
        self.attention_out = Affine.of(tensors, "attention_out")
        self.feed_forward_norm = Norm.of(tensors, "feed_forward_norm")
        self.expand = Affine.of(tensors, "expand")
        self.contract = Affine.of(tensors, "contract")

    @staticmethod
    def widest(architecture: Architecture) -> int:
        """Return the columns of its widest product."""
        return architecture.feed_forward_dim

    def before_attention(
        self, x: Tensor, rotation: Tensor, products: Products | FusedProducts, regions: Regions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (T, D) float32 to queries, keys and values, (T, heads, head_dim) each."""
        norm = self.attention_norm
        normed = regions.norm(x, norm.weight, norm.bias, norm.eps, self.dtype)
        qkv = products.linear(normed, self.qkv_weight, self.qkv_bias)
        qkv = qkv.unflatten(1, (3, self.heads, -1))
        query, key = regions.rotate(qkv[:, :2], rotation).unbind(1)
        return query, key, qkv[:, 2]

    def after_attention(
        self, x: Tensor, attended: Tensor, products: Products | FusedProducts, regions: Regions
    ) -> Tensor:
        """Return (T, D) float32 plus what attention and the feed-forward network say."""
        out, expand, contract = self.attention_out, self.expand, self.contract
        norm = self.feed_forward_norm
        said = products.linear(attended.flatten(1), out.weight, out.bias)
        x, normed = regions.add_norm(x, said, 1.0, norm.weight, norm.bias, norm.eps)
        wide = products.linear_gelu(normed, expand.weight, expand.bias)
        return x.add_(products.linear(wide, contract.weight, contract.bias))


class ESMCLayer(nn.Module):
    """transformers' `EsmcLayer`: norms over queries and keys, SwiGLU, and no biases in products."""

    regions: ClassVar[tuple[str, ...]] = ("norm", "add_norm", "norm_rotate", "swiglu")

    def __init__(
        self, tensors: Mapping[str, Tensor], architecture: Architecture, dtype: dtype
    ) -> None:
        super().__init__()
        self.heads = architecture.attention_heads
        self.dtype = dtype
        # Deep models add less of each layer, those of fewer than 36 layers more.
        self.share = 1 / math.sqrt(architecture.layers / 36)
        self.attention_norm = Norm.of(tensors, "attention_norm")
        self.qkv_weight = fixed(tensors["qkv_weight"])
        self.query_norm = Norm.of(tensors, "query_norm")
        self.key_norm = Norm.of(tensors, "key_norm")
        self.attention_out = Affine.of(tensors, "attention_out")
        self.feed_forward_norm = Norm.of(tensors, "feed_forward_norm")
        self.gate_up = Affine.of(tensors, "gate_up")
        self.contract = Affine.of(tensors, "contract")

    @staticmethod
    def widest(architecture: Architecture) -> int:
        """Return the columns of its widest product."""
        return 2 * architecture.feed_forward_dim

    def before_attention(
        self, x: Tensor, rotation: Tensor, products: Products | FusedProducts, regions: Regions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (T, D) float32 to queries, keys and values, (T, heads, head_dim) each."""
        norm = self.attention_norm
        normed = regions.norm(x, norm.weight, norm.bias, norm.eps, self.dtype)
        qkv = products.linear(normed, self.qkv_weight)
        query, key, value = qkv.chunk(3, 1)
        query, key = (
            regions.norm_rotate(part, norm.weight, norm.eps, rotation)
            for part, norm in ((query, self.query_norm), (key, self.key_norm))
        )
        return query, key, value.unflatten(1, (self.heads, -1))

    def after_attention(
        self, x: Tensor, attended: Tensor, products: Products | FusedProducts, regions: Regions
    ) -> Tensor:
        """Return (T, D) float32 plus what attention and the feed-forward network say."""
        norm = self.feed_forward_norm
        said = products.linear(attended.flatten(1), self.attention_out.weight)
        x, normed = regions.add_norm(x, said, self.share, norm.weight, norm.bias, norm.eps)
        wide = products.linear_swiglu(normed, self.gate_up.weight, regions.swiglu)
        return x.add_(products.linear(wide, self.contract.weight), alpha=self.share)


# By family, those that the packed engine computes.
LAYERS: dict[str, type[ESM2Layer] | type[ESMCLayer]] = {"esm2": ESM2Layer, "esmc": ESMCLayer}


def fixed(tensor: Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return those whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
