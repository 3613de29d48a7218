"""Batches of sequences in, mean-pooled embeddings out: windows, the forward pass, pooling."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spotesm.alphabet import tokenise
from spotesm.batching import SPECIAL_TOKENS, window_starts
from spotesm.classification import classify
from spotesm.esm2 import PackedESM2
from spotesm.failures import NOT_FINITE, OUT_OF_MEMORY

log = logging.getLogger(__name__)

SMALLEST_WINDOW = 16
_DOES_NOT_FIT = f"{OUT_OF_MEMORY}: does not fit on the device, even alone"
_NOT_FINITE = f"{NOT_FINITE}: the model gives NaN or infinity, in float32 too"


@dataclass(frozen=True)
class Window:
    """A stretch of one sequence that goes through the model at once.

    Attributes:
        tokens: (l + 2,) uint8, BOS and EOS included.
        weights: (l + 2,) float32, each token's share in the mean over the whole sequence:
            1 / (residues x windows that cover the residue), and 0 for BOS and EOS.
    """

    tokens: np.ndarray
    weights: np.ndarray


def cut_windows(sequence: bytes, window: int, overlap: int) -> list[Window]:
    """Cut a sequence of any length into the windows that `window_starts` names."""
    spans = [
        slice(start, start + window) for start in window_starts(len(sequence), window, overlap)
    ]
    coverage = np.zeros(len(sequence), dtype=np.int64)
    for span in spans:
        coverage[span] += 1
    shares = (1.0 / (len(sequence) * coverage)).astype(np.float32)
    return [
        Window(tokenise(sequence[span]), np.pad(shares[span], SPECIAL_TOKENS // 2))
        for span in spans
    ]


@dataclass(frozen=True)
class InFlight:
    """A batch that the device works on.

    Attributes:
        sequences: the k sequences.
        means: (k, D) float32 and
        finite: (k,) bool, both on their way to the host.
        reasons: why a sequence was not computed; empty for all others.
        arrived: waits for them.
    """

    sequences: Sequence[bytes]
    means: Tensor
    finite: Tensor
    reasons: list[str]
    arrived: Callable[[], None]


class Encoder:
    """Embeds batches of sequences with one model on one device.

    Args:
        load_model: makes the model in a precision; called once, and once more for float32 if
            another precision ever gives a value that is not finite.
        shrink_windows: whether a sequence that does not fit on the device even alone is cut into
            smaller windows, instead of being rejected.
        on_smaller_budget: told the new token budget when memory ran out and it was halved.
        check_stop: called within long work; what it raises ends the work.
    """

    def __init__(
        self,
        load_model: Callable[[torch.dtype], PackedESM2],
        dtype: torch.dtype,
        window: int,
        overlap: int,
        shrink_windows: bool = False,
        on_smaller_budget: Callable[[int], None] = lambda _: None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.load_model = load_model
        self.model = load_model(dtype)
        self.window = window
        self.overlap = overlap
        self.shrink_windows = shrink_windows
        self.on_smaller_budget = on_smaller_budget
        self.check_stop = check_stop
        self._exact_model: PackedESM2 | None = None

    def embed_each(
        self, batches: Iterable[Sequence[bytes]], token_budget: int, ahead: bool = True
    ) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yield the (k, D) float32 means over residues of the last layer, and k reasons.

        A reason is empty, but for a sequence that could not be embedded and must be rejected;
        its row is zero. Values at a residue that several windows cover are averaged. A batch
        that exceeds the token budget, which only a long sequence does, goes through in several
        passes.

        Args:
            ahead: on a GPU, read, tokenise and launch the next batch before waiting for the
                results of one, so that the GPU always has work.
        """
        self.token_budget = token_budget
        lookahead = 1 if ahead and self.model.device.type == "cuda" else 0
        in_flight: deque[InFlight] = deque()
        for sequences in batches:
            in_flight.append(self._launch(sequences, self.model))
            if len(in_flight) > lookahead:
                yield self._collect(in_flight.popleft())
        while in_flight:
            yield self._collect(in_flight.popleft())

    @torch.inference_mode()
    def _launch(self, sequences: Sequence[bytes], model: PackedESM2) -> InFlight:
        means, reasons = self._embed(sequences, model, self.window, self.overlap)
        finite = torch.isfinite(means).all(dim=1)
        if means.device.type != "cuda":
            return InFlight(sequences, means, finite, reasons, arrived=lambda: None)
        down = [
            torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            for x in (means, finite)
        ]
        event = torch.cuda.Event()
        event.record()
        return InFlight(sequences, *down, reasons, arrived=event.synchronize)

    def _embed(
        self, sequences: Sequence[bytes], model: PackedESM2, window: int, overlap: int
    ) -> tuple[Tensor, list[str]]:
        """Return the (k, D) means on the device, and k reasons why one could not be computed."""
        windows = [cut_windows(sequence, window, overlap) for sequence in sequences]
        pooled, did_not_fit = self._run([one for own in windows for one in own], model)
        # The windows of a sequence are neighbours, and add up to its mean.
        means = _sum_runs(pooled, [len(own) for own in windows])
        owners = [index for index, own in enumerate(windows) for _ in own]
        reasons = [""] * len(sequences)
        for index in {owners[place] for place in did_not_fit}:
            reasons[index] = _DOES_NOT_FIT
            half = min(window, len(sequences[index])) // 2
            if self.shrink_windows and half >= SMALLEST_WINDOW:
                log.warning("a sequence does not fit: in windows of %d residues", half)
                one = [sequences[index]]
                shrunk, (reasons[index],) = self._embed(one, model, half, min(overlap, half) // 2)
                means[index] = shrunk[0]
        return means, reasons

    def _collect(self, batch: InFlight) -> tuple[np.ndarray, list[str]]:
        batch.arrived()
        means, reasons = batch.means.numpy().copy(), list(batch.reasons)
        for index in np.flatnonzero(~batch.finite.numpy()):
            reasons[index] = reasons[index] or _NOT_FINITE
            if self.model.dtype != torch.float32 and reasons[index] == _NOT_FINITE:
                means[index], reasons[index] = self._embed_exactly(batch.sequences[index])
        means[[bool(reason) for reason in reasons]] = 0
        return means, reasons

    def _embed_exactly(self, sequence: bytes) -> tuple[np.ndarray, str]:
        """Embed one sequence in float32, after another precision gave NaN or infinity."""
        if self._exact_model is None:
            log.warning("a value in %s is not finite: computing it in float32", self.model.dtype)
            self._exact_model = self.load_model(torch.float32)
        batch = self._launch([sequence], self._exact_model)
        batch.arrived()
        reason = batch.reasons[0] or ("" if bool(batch.finite[0]) else _NOT_FINITE)
        return batch.means.numpy()[0], reason

    def _run(self, windows: list[Window], model: PackedESM2) -> tuple[Tensor, list[int]]:
        """Run windows through the model in as few passes as the token budget allows.

        Returns:
            (w, D) float32, each the weighted sum of its tokens, and which windows did not fit
            on the device even alone; their rows are zero.
        """
        pooled: list[Tensor] = []
        did_not_fit = []
        first = 0
        while first < len(windows):
            end = self._end_of_pass(windows, first)
            try:
                pooled.append(self._pool(windows[first:end], model))
            except (RuntimeError, MemoryError) as error:
                if classify(error) != OUT_OF_MEMORY:
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if end - first > 1:
                    self._halve_budget(sum(len(window.tokens) for window in windows[first:end]))
                    continue
                did_not_fit.append(first)
                pooled.append(torch.zeros(1, model.embedding_dim, device=model.device))
            first = end
        return torch.cat(pooled), did_not_fit

    def _end_of_pass(self, windows: list[Window], first: int) -> int:
        end, tokens = first + 1, len(windows[first].tokens)
        while end < len(windows) and tokens + len(windows[end].tokens) <= self.token_budget:
            tokens += len(windows[end].tokens)
            end += 1
        return end

    def _halve_budget(self, tokens_tried: int) -> None:
        self.token_budget = min(self.token_budget, tokens_tried) // 2
        log.warning("out of memory with %d tokens; going on with half of them", tokens_tried)
        self.on_smaller_budget(self.token_budget)

    def _pool(self, windows: Sequence[Window], model: PackedESM2) -> Tensor:
        """Run one pass; (w, D) float32, the weighted sum of each window's tokens."""
        lengths = [len(window.tokens) for window in windows]
        tokens = _to_device(np.concatenate([window.tokens for window in windows]), model.device)
        weights = _to_device(np.concatenate([window.weights for window in windows]), model.device)
        hidden = model(tokens.int(), lengths, self.check_stop)
        return _sum_runs(hidden * weights.unsqueeze(1), lengths)


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _sum_runs(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum neighbouring rows of (r, D), `lengths` of them at a time, always in the same order."""
    sizes = torch.tensor(lengths).to(x.device, non_blocking=True)
    return torch.segment_reduce(x, "sum", lengths=sizes, unsafe=True)
