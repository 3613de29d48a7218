"""ESM-2's forward pass over packed sequences: no padding token is ever computed.

All sequences of a batch lie one after another along the token axis, (T, D). Linear layers and
norms see one large matrix; attention looks at each sequence by itself. The arithmetic is that
of fair-esm's `ESM2` (the reference of the tests), without its language-model head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from torch import Tensor, nn

# Training hid 15% of the residues, 80% of them behind the mask token, whose embedding is zero.
# ESM-2 scales every embedding down to keep the same mean without masks (Lin et al. 2023).
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
ROTARY_BASE = 10_000


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a batch lie along the token axis.

    Attributes:
        positions: (T,) int64, each token's place in its own sequence.
        runs: (first token, number of sequences, tokens each) of every run of neighbouring
            sequences of equal length, which attention takes as one dense block.
    """

    positions: Tensor
    runs: list[tuple[int, int, int]]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Packing":
        """Describe sequences of `lengths` tokens in the order given."""
        runs = []
        first = 0
        for length, group in groupby(lengths):
            count = len(list(group))
            runs.append((first, count, length))
            first += count * length
        positions = torch.cat([torch.arange(length).repeat(count) for _, count, length in runs])
        return cls(positions.to(device), runs)


class PackedESM2(nn.Module):
    """An ESM-2 encoder made from a loaded fair-esm model."""

    def __init__(self, model: ESM2) -> None:
        super().__init__()
        self.n_layers = model.num_layers
        self.embedding_dim = model.embed_dim
        scale = TOKEN_DROPOUT_SCALE if model.token_dropout else 1.0
        self.embedding = nn.Parameter(model.embed_tokens.weight.detach() * scale)
        self.layers = nn.ModuleList(
            PackedLayer(layer, model.attention_heads) for layer in model.layers
        )
        self.final_norm = model.emb_layer_norm_after
        self.head_dim = model.embed_dim // model.attention_heads

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Return the last layer's representation of every token, after the final norm.

        Args:
            tokens: (T,) token numbers of all sequences, each with its BOS and EOS.

        Returns:
            (T, D), in the precision of the parameters.
        """
        x = F.embedding(tokens, self.embedding)
        rotation = rotary_tables(packing.positions, self.head_dim, x.dtype)
        for layer in self.layers:
            x = layer(x, packing, rotation)
        return self.final_norm(x)


class PackedLayer(nn.Module):
    """A pre-norm transformer layer; query, key and value come from one product."""

    def __init__(self, layer: TransformerLayer, heads: int) -> None:
        super().__init__()
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = heads
        self.attention_norm = layer.self_attn_layer_norm
        self.qkv_weight = nn.Parameter(torch.cat([p.weight for p in projections]))
        self.qkv_bias = nn.Parameter(torch.cat([p.bias for p in projections]))
        self.attention_out = attention.out_proj
        self.feed_forward_norm = layer.final_layer_norm
        self.expand = layer.fc1
        self.contract = layer.fc2

    def forward(self, x: Tensor, packing: Packing, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Map (T, D) to (T, D)."""
        qkv = F.linear(self.attention_norm(x), self.qkv_weight, self.qkv_bias)
        query, key, value = qkv.view(len(x), 3, self.heads, -1).unbind(1)
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        x = x + self.attention_out(attend_within(query, key, value, packing).flatten(1))
        return x + self.contract(F.gelu(self.expand(self.feed_forward_norm(x))))


def rotary_tables(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, (T, 1, head_dim) each, that encode `positions`.

    Rotary position embedding of Su et al. 2021 (arXiv:2104.09864), halves instead of pairs.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = torch.outer(positions.float(), 1.0 / ROTARY_BASE ** (exponents / head_dim))
    angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys (T, heads, head_dim) by their positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


def attend_within(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Softmax attention of every token to the tokens of its own sequence, (T, heads, head_dim)."""
    out = torch.empty_like(query)
    for first, count, length in packing.runs:
        block = slice(first, first + count * length)
        q, k, v, o = (
            x[block].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value, out)
        )
        o.copy_(F.scaled_dot_product_attention(q, k, v))
    return out
