"""Contacts between residues from attention maps, one sequence and one layer at a time.

The arithmetic is that of fair-esm's `ContactPredictionHead` (Rao et al. 2021, "Transformer protein
language models are unsupervised structure learners"): attention between residues is symmetrised
and corrected for the average product of rows and columns, and a logistic regression over all heads
of all layers says how likely two residues touch. The regression is a sum, so no map of an earlier
layer is kept.
"""

from collections.abc import Sequence

import torch
from esm.modules import ContactPredictionHead, apc, symmetrize
from torch import Tensor


class ContactMaps:
    """The sums over layers and heads so far, for each of the sequences of a batch."""

    def __init__(
        self, head: ContactPredictionHead, lengths: Sequence[int], device: torch.device
    ) -> None:
        """Begin with nothing but the regression's bias; `lengths` include BOS and EOS."""
        self.weight = head.regression.weight[0]
        self.lengths = lengths
        residues = [length - 2 for length in lengths]
        self.sums = [head.regression.bias.expand(n, n).clone().to(device) for n in residues]

    def add_layer(self, layer: int, query: Tensor, key: Tensor) -> None:
        """Add what the heads of a layer, counted from 0, say; (T, heads, head_dim) each."""
        heads = query.shape[1]
        weight = self.weight[layer * heads : (layer + 1) * heads]
        for total, q, k in zip(
            self.sums, query.split(self.lengths), key.split(self.lengths), strict=True
        ):
            scores = torch.einsum("ihd,jhd->hij", q.float(), k.float()) * q.shape[-1] ** -0.5
            attention = scores.softmax(-1)[:, 1:-1, 1:-1]
            total += torch.tensordot(weight, apc(symmetrize(attention)), dims=1)

    def probabilities(self) -> list[Tensor]:
        """Return a symmetric map of probabilities, (l, l) float32, for each sequence."""
        return [total.sigmoid() for total in self.sums]
