"""The forward pass over packed sequences: no padding token is ever computed.

All sequences of a batch lie one after another along the token axis, (T, D). Linear layers and
norms see one large matrix; attention looks at each sequence by itself. What a family's layers
compute before and after attention is in `layers`; the language-model head and the contact head run
only if they are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from esm.modules import ContactPredictionHead, gelu
from torch import Tensor, nn

from spotesm.model.attention import choose_attention
from spotesm.model.contacts import ContactMaps
from spotesm.model.layers import LAYERS, Affine, Norm, below, fixed
from spotesm.model.products import choose_products
from spotesm.model.regions import choose_regions
from spotesm.model.transfers import to_device
from spotesm.request.outputs import CONTACTS, LOGITS, Outputs
from spotesm.sequences.alphabet import EOS
from spotesm.weights.architectures import REGRESSION, ROTARY_BASE, Architecture
from spotesm.weights.layout import arrange
from spotesm.weights.tensors import Source


@dataclass(frozen=True)
class Activations:
    """What one pass over packed sequences gives, T tokens in all.

    Attributes:
        hidden: by layer, (T, D) float32; layer 0 is the embedding, the last one is normed.
        logits: (T, V) float32, if asked for; V is the family's `vocabulary`.
        contacts: for each sequence of l residues, (l, l) float32 probabilities, if asked for.
    """

    hidden: dict[int, Tensor]
    logits: Tensor | None
    contacts: list[Tensor]


class PackedModel(nn.Module):
    """A model over tensors that lie as it multiplies them, on one device.

    Matrix products run in `dtype`. The sum that every layer adds to, and the norms over it, stay
    in float32, so that half precision loses no more than what single products round away.
    """

    stops_early = True  # no layer behind the last that is asked for costs anything

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        architecture: Architecture,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Take the tensors as they are; all are on the device.

        Args:
            tensors: of `weights.layout`; heads may be missing where no output needs them.
        """
        super().__init__()
        layers, heads = architecture.layers, architecture.attention_heads
        self.n_layers = layers
        self.embedding_dim = architecture.embedding_dim
        self.head_dim = self.embedding_dim // heads
        self.dtype = dtype
        self.device = device
        self.attention = choose_attention(device, dtype)
        layer = LAYERS[architecture.family]
        self.widest = layer.widest(architecture)
        self.products = choose_products(device, dtype, self.embedding_dim)
        self.regions = choose_regions(device, dtype, architecture, layer.regions)
        self.description = f"packed, {self.attention.__name__}, {self.products.__name__}"
        self.embedding = fixed(tensors["embedding"])
        self.layers = nn.ModuleList(
            layer(below(tensors, f"layers.{number}."), architecture, dtype)
            for number in range(layers)
        )
        self.final_norm = Norm.of(tensors, "final_norm")
        logits = below(tensors, "logits_head.")
        self.logits_head = LogitsHead(logits) if logits else None
        self.contact_head = ContactPredictionHead(layers * heads, True, True, eos_idx=EOS)
        if REGRESSION[0] in tensors:
            self.contact_head.load_state_dict(below(tensors, "contact_head."))
        stored = tensors.get("rotation")
        frequencies = frequencies_of(self.head_dim) if stored is None else stored.cpu()
        self.rotations = Rotations(frequencies, device)
        self.to(device).eval()

    @classmethod
    def of_source(cls, source: Source, device: torch.device, dtype: torch.dtype) -> "PackedModel":
        """Make it from the tensors of a model, layer by layer."""
        tensors = {
            name: tensor.to(device)
            for _, group in arrange(source, dtype)
            for name, tensor in group.items()
        }
        return cls(tensors, source.architecture, device, dtype)

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
        n_tokens = len(tokens)
        # What fills up the last rows is a sequence of its own, of which nothing is kept.
        fill = -n_tokens % self.products.rows_at_once
        filled = [*lengths, fill] if fill else lengths
        x = F.embedding(F.pad(tokens, (0, fill)), self.embedding)
        attend = self.attention(filled, self.device)
        rotation = self.rotations.of(filled)
        memory = (len(x), self.embedding_dim, self.widest)
        products = self.products(*memory, self.dtype, self.device)
        hidden = {0: x[:n_tokens]} if 0 in outputs.layers else {}
        maps = ContactMaps(self.contact_head, lengths if CONTACTS in outputs else [], self.device)
        depth = outputs.depth(self.n_layers)
        for number, layer in enumerate(self.layers[:depth], start=1):
            before_layer()
            query, key, value = layer.before_attention(x, rotation, products, self.regions)
            if CONTACTS in outputs:
                maps.add_layer(number - 1, query[:n_tokens], key[:n_tokens])
            attended = attend(query, key, value)
            x = layer.after_attention(x, attended, products, self.regions)
            if number in outputs.layers:
                hidden[number] = x[:n_tokens]
        x = x[:n_tokens]
        if depth == self.n_layers:
            x = self.final_norm(x)
        if self.n_layers in outputs.layers:
            hidden[self.n_layers] = x
        logits = self.logits_head(x) if LOGITS in outputs else None
        return Activations(hidden, logits, maps.probabilities())


class LogitsHead(nn.Module):
    """The head of masked language modelling: fair-esm's `RobertaLMHead`.

    transformers' `EsmcMaskedLMHead` is the same.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.dense = Affine.of(tensors, "dense")
        self.layer_norm = Norm.of(tensors, "layer_norm")
        self.decoder = Affine(tensors["weight"], tensors["bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, D) to logits, (T, V)."""
        return self.decoder(self.layer_norm(gelu(self.dense(x))))


def frequencies_of(head_dim: int) -> Tensor:
    """Return by how much each pair of features turns from place to place, (head_dim / 2,)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return 1.0 / ROTARY_BASE**exponents


class Rotations:
    """The cosines and sines that encode places, kept on the device.

    Rotary position embedding of Su et al. 2021 (arXiv:2104.09864).
    """

    def __init__(self, frequencies: Tensor, device: torch.device) -> None:
        """Keep by how much each pair of features turns from place to place, (head_dim / 2,)."""
        self.frequencies = frequencies
        self.device = device
        self.table = torch.empty(0, len(frequencies), 2, device=device)

    def of(self, lengths: Sequence[int]) -> Tensor:
        """Return them for each token, (T, head_dim / 2, 2); places restart at each sequence."""
        if max(lengths) > len(self.table):
            angles = torch.outer(torch.arange(max(lengths)).float(), self.frequencies)
            self.table = torch.stack([angles.cos(), angles.sin()], dim=-1).to(self.device)
        places = np.concatenate([np.arange(length) for length in lengths])
        return self.table[to_device(places, self.device)]
