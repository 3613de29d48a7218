"""Sequences in, mean-pooled embeddings out: windows, the forward pass, pooling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spotesm.alphabet import tokenise
from spotesm.batching import SPECIAL_TOKENS, window_starts
from spotesm.esm2 import PackedESM2, Packing

NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Window:
    """A stretch of one sequence that goes through the model at once.

    Attributes:
        sequence: index of the sequence in its batch.
        tokens: (l + 2,) uint8, BOS and EOS included.
        weights: (l + 2,) float32, each token's share in the mean over the whole sequence:
            1 / (residues x windows that cover the residue), and 0 for BOS and EOS.
    """

    sequence: int
    tokens: np.ndarray
    weights: np.ndarray


def cut_windows(index: int, sequence: bytes, window: int, overlap: int) -> list[Window]:
    """Cut a sequence of any length into the windows that `window_starts` names."""
    spans = [
        slice(start, start + window) for start in window_starts(len(sequence), window, overlap)
    ]
    coverage = np.zeros(len(sequence), dtype=np.int64)
    for span in spans:
        coverage[span] += 1
    shares = (1.0 / (len(sequence) * coverage)).astype(np.float32)
    return [
        Window(index, tokenise(sequence[span]), np.pad(shares[span], SPECIAL_TOKENS // 2))
        for span in spans
    ]


class Encoder:
    """Embeds batches of sequences with one model on one device."""

    def __init__(
        self, model: PackedESM2, device: torch.device, window: int, overlap: int, token_budget: int
    ) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.window = window
        self.overlap = overlap
        self.token_budget = token_budget

    @torch.inference_mode()
    def embed(self, sequences: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Return the (k, D) float32 means over residues of the last layer, and k reasons.

        A reason is empty, but for a sequence whose mean is not finite and must be rejected.

        The values at a residue that several windows cover are averaged. A batch that exceeds
        the token budget, which only a long sequence does, goes through in several passes.
        """
        means = torch.zeros(len(sequences), self.model.embedding_dim, device=self.device)
        windows = [
            window
            for index, sequence in enumerate(sequences)
            for window in cut_windows(index, sequence, self.window, self.overlap)
        ]
        for group in self._passes(windows):
            owners = torch.tensor([window.sequence for window in group], device=self.device)
            means.index_add_(0, owners, self._pool(group))
        finite = torch.isfinite(means).all(dim=1).tolist()
        reasons = ["" if ok else f"{NOT_FINITE}: the model gives NaN or infinity" for ok in finite]
        return means.cpu().numpy(), reasons

    def _passes(self, windows: list[Window]) -> list[list[Window]]:
        groups: list[list[Window]] = []
        in_group = 0
        for window in windows:
            if not groups or in_group + len(window.tokens) > self.token_budget:
                groups.append([])
                in_group = 0
            groups[-1].append(window)
            in_group += len(window.tokens)
        return groups

    def _pool(self, group: list[Window]) -> Tensor:
        """Run windows through the model; (w, D) float32, each the weighted sum of its tokens."""
        lengths = [len(window.tokens) for window in group]
        tokens = torch.from_numpy(np.concatenate([window.tokens for window in group]))
        weights = torch.from_numpy(np.concatenate([window.weights for window in group]))
        hidden = self.model(tokens.to(self.device).long(), Packing.of(lengths, self.device))
        weighted = hidden.float() * weights.to(self.device).unsqueeze(1)
        return torch.segment_reduce(
            weighted, "sum", lengths=torch.tensor(lengths, device=self.device)
        )
