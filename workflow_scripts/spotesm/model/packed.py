"""ESM-2's forward pass over packed sequences: no padding token is ever computed.

All sequences of a batch lie one after another along the token axis, (T, D). Linear layers and
norms see one large matrix; attention looks at each sequence by itself. The arithmetic is that
of fair-esm's `ESM2` (the reference of the tests); its language-model head and its contact head
run only if they are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from torch import Tensor, nn

from spotesm.model.attention import choose_attention
from spotesm.model.contacts import ContactMaps
from spotesm.model.products import FusedProducts, Products, choose_products
from spotesm.model.regions import Regions, choose_regions
from spotesm.model.transfers import to_device
from spotesm.request.outputs import CONTACTS, LOGITS, Outputs

# Training hid 15% of the residues, 80% of them behind the mask token, whose embedding is zero.
# ESM-2 scales every embedding down to keep the same mean without masks (Lin et al. 2023).
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
ROTARY_BASE = 10_000


@dataclass(frozen=True)
class Activations:
    """What one pass over packed sequences gives, T tokens in all.

    Attributes:
        hidden: by layer, (T, D) float32; layer 0 is the embedding, the last one is normed.
        logits: (T, 33) float32, if asked for.
        contacts: for each sequence of l residues, (l, l) float32 probabilities, if asked for.
    """

    hidden: dict[int, Tensor]
    logits: Tensor | None
    contacts: list[Tensor]


class PackedESM2(nn.Module):
    """An ESM-2 encoder made from a loaded fair-esm model, on one device in one precision.

    Matrix products run in `dtype`. The sum that every layer adds to, and the norms over it, stay
    in float32, so that half precision loses no more than what single products round away.
    Takes the loaded model over: its layers are converted in place, one by one.
    """

    stops_early = True  # no layer behind the last that is asked for costs anything

    def __init__(self, model: ESM2, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_layers = model.num_layers
        self.embedding_dim = model.embed_dim
        self.head_dim = model.embed_dim // model.attention_heads
        self.dtype = dtype
        self.device = device
        self.attention = choose_attention(device, dtype)
        self.products = choose_products(device, dtype)
        self.rotations = Rotations(self.head_dim, device)
        self.regions = choose_regions(device, dtype, self.embedding_dim, model.attention_heads)
        self.description = f"packed, {self.attention.__name__}, {self.products.__name__}"
        scale = TOKEN_DROPOUT_SCALE if model.token_dropout else 1.0
        self.embedding = nn.Parameter(model.embed_tokens.weight.detach() * scale)
        self.layers = nn.ModuleList(
            PackedLayer(layer, model.attention_heads, dtype) for layer in model.layers
        )
        self.final_norm = model.emb_layer_norm_after
        self.logits_head = model.lm_head
        self.contact_head = model.contact_head
        self.to(device).eval()

    @torch.inference_mode()
    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        outputs: Outputs,
        before_layer: Callable[[], None] = lambda: None,
    ) -> Activations:
        """Return what `outputs` needs; no layer behind the last of them runs.

        Args:
            tokens: (T,) token numbers of all sequences, each with its BOS and EOS.
            lengths: tokens of each sequence, in the same order; their sum is T.
            before_layer: called before each layer; what it raises ends the work.
        """
        x = F.embedding(tokens, self.embedding)
        attend = self.attention(lengths, self.device)
        rotation = self.rotations.of(lengths)
        products = self.products(len(tokens), self.embedding_dim, self.dtype, self.device)
        hidden = {0: x} if 0 in outputs.layers else {}
        maps = ContactMaps(self.contact_head, lengths if CONTACTS in outputs else [], self.device)
        depth = outputs.depth(self.n_layers)
        for number, layer in enumerate(self.layers[:depth], start=1):
            before_layer()
            query, key, value = layer.before_attention(x, rotation, products, self.regions)
            if CONTACTS in outputs:
                maps.add_layer(number - 1, query, key)
            attended = attend(query, key, value)
            x = layer.after_attention(x, attended, products, self.regions)
            if number in outputs.layers:
                hidden[number] = x
        if depth == self.n_layers:
            x = self.final_norm(x)
        if self.n_layers in outputs.layers:
            hidden[self.n_layers] = x
        logits = self.logits_head(x) if LOGITS in outputs else None
        return Activations(hidden, logits, maps.probabilities())


class PackedLayer(nn.Module):
    """A pre-norm transformer layer; query, key and value come from one product."""

    def __init__(self, layer: TransformerLayer, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        attention = layer.self_attn
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        rows = _pair_halves(layer.embed_dim, heads)
        self.heads = heads
        self.dtype = dtype
        self.attention_norm = layer.self_attn_layer_norm
        self.qkv_weight = nn.Parameter(
            torch.cat([query.weight[rows], key.weight[rows], value.weight]).to(dtype)
        )
        self.qkv_bias = nn.Parameter(
            torch.cat([query.bias[rows], key.bias[rows], value.bias]).to(dtype)
        )
        self.attention_out = attention.out_proj.to(dtype)
        self.feed_forward_norm = layer.final_layer_norm
        self.expand = layer.fc1.to(dtype)
        self.contract = layer.fc2.to(dtype)

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
        x, normed = regions.add_norm(x, said, norm.weight, norm.bias, norm.eps)
        wide = products.linear_gelu(normed, expand.weight, expand.bias)
        return x.add_(products.linear(wide, contract.weight, contract.bias))


def _pair_halves(dim: int, heads: int) -> Tensor:
    """Return the order of all features in which, within a head, i + head_dim / 2 follows i.

    Rotary embedding turns these two together. Side by side they are one complex number, which
    is several times faster to turn; scores stay the same, as queries and keys are both reordered.
    """
    return torch.arange(dim).view(heads, 2, -1).transpose(1, 2).flatten()


class Rotations:
    """The cosines and sines that encode places, kept on the device.

    Rotary position embedding of Su et al. 2021 (arXiv:2104.09864).
    """

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.device = device
        self.table = torch.empty(0, head_dim // 2, 2, device=device)

    def of(self, lengths: Sequence[int]) -> Tensor:
        """Return them for each token, (T, head_dim / 2, 2); places restart at each sequence."""
        if max(lengths) > len(self.table):
            places = torch.arange(max(lengths)).float()
            angles = torch.outer(places, 1.0 / ROTARY_BASE**self.exponents)
            self.table = torch.stack([angles.cos(), angles.sin()], dim=-1).to(self.device)
        places = np.concatenate([np.arange(length) for length in lengths])
        return self.table[to_device(places, self.device)]
