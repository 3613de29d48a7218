"""fair-esm's own forward behind the packed engine's interface: for ESM-1b, ESM-1v and doubts."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from spotesm.model.packed import Activations
from spotesm.request.outputs import CONTACTS, LOGITS, Outputs
from spotesm.weights.files import FairESM


class ReferenceEngine:
    """Runs each group of neighbours of equal length through the loaded model, without padding.

    Takes the loaded model over, and converts all of it to `dtype`.
    """

    def __init__(self, model: FairESM, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.to(device, dtype).eval()
        self.n_layers = len(model.layers)
        self.embedding_dim = model.embed_tokens.embedding_dim
        self.dtype = dtype
        self.device = device
        self.description = "fair-esm's own forward"

    def __call__(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        outputs: Outputs,
        before_group: Callable[[], None] = lambda: None,
    ) -> Activations:
        """Return what `outputs` needs; arguments as those of `PackedESM2.forward`."""
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
