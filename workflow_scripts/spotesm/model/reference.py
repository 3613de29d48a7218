"""fair-esm's own forward, of ESM-2 and ESM-1, behind the packed engine's interface."""

import argparse
from collections.abc import Callable, Sequence
from itertools import groupby

import esm
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from torch import Tensor

from spotesm.model.packed import Activations, frequencies_of
from spotesm.request.outputs import CONTACTS, LOGITS, Outputs
from spotesm.weights.architectures import ESM1_POSITIONS, FREQUENCIES, NORM_BEFORE
from spotesm.weights.tensors import Source

FairESM = ESM2 | ProteinBertModel
ALPHABET = esm.Alphabet.from_architecture("ESM-1b")  # that of ESM-2, too


def fair_esm_model(source: Source) -> FairESM:
    """Return fair-esm's own model over the tensors of a source, float32, on the CPU.

    Nothing is initialised or copied that lies in float32. A head that is not there is zero.
    """
    shape = source.architecture
    with torch.device("meta"):
        if shape.family == "esm2":
            model = ESM2(
                shape.layers,
                shape.embedding_dim,
                shape.attention_heads,
                ALPHABET,
                source.token_dropout,
            )
        else:
            model = ProteinBertModel(_esm1_arguments(source), ALPHABET)
    state = {}
    for name, empty in model.state_dict().items():
        stored = FREQUENCIES if name.endswith(FREQUENCIES) else name
        if stored in source.names:
            state[name] = source.get(stored).float()
        elif stored == FREQUENCIES:
            state[name] = frequencies_of(shape.embedding_dim // shape.attention_heads)
        else:
            state[name] = torch.zeros(empty.shape)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _esm1_arguments(source: Source) -> argparse.Namespace:
    shape = source.architecture
    return argparse.Namespace(
        arch="roberta_large",
        layers=shape.layers,
        embed_dim=shape.embedding_dim,
        ffn_embed_dim=4 * shape.embedding_dim,
        attention_heads=shape.attention_heads,
        max_positions=ESM1_POSITIONS,
        token_dropout=source.token_dropout,
        emb_layer_norm_before=NORM_BEFORE[0] in source.names,
    )


class ReferenceEngine:
    """Runs each group of neighbours of equal length through the loaded model, without padding.

    Takes the loaded model over, and converts all of it to `dtype`.
    """

    stops_early = False

    def __init__(self, model: FairESM, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.to(device, dtype).eval()
        # ESM-1 scales embeddings by a number of float32, which makes them float32.
        first = getattr(model, "emb_layer_norm_before", None) or model.layers[0]
        first.register_forward_pre_hook(lambda _, given: (given[0].to(dtype), *given[1:]))
        self.n_layers = len(model.layers)
        self.embedding_dim = model.embed_tokens.embedding_dim
        self.dtype = dtype
        self.device = device
        self.description = "fair-esm's own forward"

    @classmethod
    def of_source(
        cls, source: Source, device: torch.device, dtype: torch.dtype
    ) -> "ReferenceEngine":
        """Make it from the tensors of a model."""
        return cls(fair_esm_model(source), device, dtype)

    def __call__(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        outputs: Outputs,
        before_group: Callable[[], None] = lambda: None,
    ) -> Activations:
        """Return what `outputs` needs; arguments as those of `PackedModel.forward`."""
        results = []
        first = 0
        for length, group in groupby(lengths):
            before_group()
            count = len(list(group))
            own = tokens[first : first + count * length].view(count, length)
            results.append(self.model(own, outputs.layers, return_contacts=CONTACTS in outputs))
            first += count * length
        hidden = {
            layer: _join([result["representations"][layer] for result in results])
            for layer in outputs.layers
        }
        logits = _join([result["logits"] for result in results]) if LOGITS in outputs else None
        contacts = [one.float() for r in results for one in r.get("contacts", [])]
        return Activations(hidden, logits, contacts)


def _join(groups: list[Tensor]) -> Tensor:
    """Lay (count, l, D) groups one after another, (T, D) float32."""
    return torch.cat([group.flatten(0, 1) for group in groups]).float()
