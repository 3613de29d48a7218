"""Batches of sequences in, their outputs out: windows, passes over the model, its failures."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from spotesm.base.classification import classify
from spotesm.base.failures import NOT_FINITE, OUT_OF_MEMORY
from spotesm.model.packed import Activations, PackedModel
from spotesm.model.products import sum_in_float32
from spotesm.model.stitching import Embedded, join, split_by_window, stitch
from spotesm.model.transfers import arrival, to_device, to_host
from spotesm.request.outputs import BOS, CONTACTS, LOGITS, MEAN, RESIDUES, Key, Outputs
from spotesm.request.results import Results
from spotesm.sequences.alphabet import tokenise
from spotesm.sequences.digests import digests_of
from spotesm.sequences.long_sequences import SMALLER_WINDOWS, SPECIAL_TOKENS, LongSequences, cut
from spotesm.sequences.reasons import Reason

log = logging.getLogger(__name__)

SMALLEST_WINDOW = 16
_DOES_NOT_FIT = Reason(OUT_OF_MEMORY, "does not fit on the device, even alone")
_NOT_FINITE = Reason(
    NOT_FINITE, "the model gives NaN or infinity (or more than store_dtype can hold)"
)


class WindowDoesNotFit(Exception):
    """Memory ran out on one window alone; `place` says which of those given it was."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Window:
    """A stretch of one sequence that goes through the model at once.

    Attributes:
        start: its first residue's place in the sequence.
        tokens: (l + 2,) uint8, BOS and EOS included.
        shares: (l + 2,) float32, each token's share in the mean over the whole sequence:
            1 / (residues x windows that cover the residue), and 0 for BOS and EOS.
    """

    start: int
    tokens: np.ndarray
    shares: np.ndarray

    @property
    def residues(self) -> int:
        """How many it covers."""
        return len(self.tokens) - SPECIAL_TOKENS


def cut_windows(sequence: bytes, spans: list[slice]) -> list[Window]:
    """Cut the windows that `spans` name out of a sequence."""
    coverage = np.zeros(len(sequence), dtype=np.int64)
    for span in spans:
        coverage[span] += 1
    # Where nothing covers a residue, as behind a truncation, it has no share.
    shares = (1.0 / (np.count_nonzero(coverage) * np.maximum(coverage, 1))).astype(np.float32)
    return [
        Window(span.start, tokenise(sequence[span]), np.pad(shares[span], SPECIAL_TOKENS // 2))
        for span in spans
    ]


@dataclass(frozen=True)
class Batch:
    """Sequences that are embedded together.

    Attributes:
        sequences: k normalised sequences.
        digests: (k,) DIGEST, of each.
    """

    sequences: Sequence[bytes]
    digests: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[bytes]) -> "Batch":
        """Make one of sequences whose digests nobody knows yet."""
        return cls(sequences, digests_of(sequences))


@dataclass(frozen=True)
class InFlight:
    """A batch that the device works on.

    Attributes:
        sequences: its k sequences.
        digests: (k,) DIGEST, of each.
        windows: of each.
        reasons: why a sequence is not computed; None for all others.
        passes: by pass, the values of some of the windows, on their way to the host.
        finite: by pass, (w,) bool, whether all values of a window are.
        arrived: waits for them.
    """

    sequences: Sequence[bytes]
    digests: np.ndarray
    windows: list[list[Window]]
    reasons: list[Reason | None]
    passes: list[dict[str, Tensor]]
    finite: list[Tensor]
    arrived: Callable[[], None]


class Encoder:
    """Embeds batches of sequences with one model on one device.

    Args:
        load_model: makes the model in a precision; called once, and once more for float32 if
            another precision ever gives a value that is not finite.
        outputs: what is computed.
        long_sequences: how sequences are cut.
        on_smaller_budget: told the new token budget when memory ran out and it was halved.
        check_stop: called within long work; what it raises ends the work.
        on_pass: told, after a pass that others of the same batch follow, how many tokens it had.
    """

    def __init__(
        self,
        load_model: Callable[[torch.dtype], PackedModel],
        dtype: torch.dtype,
        outputs: Outputs,
        long_sequences: LongSequences,
        on_smaller_budget: Callable[[int], None] = lambda _: None,
        check_stop: Callable[[], None] = lambda: None,
        on_pass: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.load_model = load_model
        self.model = load_model(dtype)
        self.outputs = outputs
        self.long_sequences = long_sequences
        self.on_smaller_budget = on_smaller_budget
        self.check_stop = check_stop
        self.on_pass = on_pass
        sum_in_float32()

    def embed_each(
        self, batches: Iterable[Batch], token_budget: int, ahead: bool = True
    ) -> Iterator[Results]:
        """Yield the results of each batch.

        A reason is None, but for a sequence that could not be embedded and must be rejected. A
        batch that exceeds the token budget, which only a long sequence does, goes through in
        several passes.

        Args:
            ahead: on a GPU, read, tokenise and launch the next batch before waiting for the
                results of one, so that the GPU always has work.
        """
        self.token_budget = token_budget
        lookahead = 1 if ahead and self.model.device.type == "cuda" else 0
        in_flight: deque[InFlight] = deque()
        for batch in batches:
            in_flight.append(self._launch(batch, self.model))
            if len(in_flight) > lookahead:
                yield self._collect(in_flight.popleft())
        while in_flight:
            yield self._collect(in_flight.popleft())

    # -- launching -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _launch(self, batch: Batch, model: PackedModel) -> InFlight:
        sequences = batch.sequences
        windows = [cut_windows(s, self.long_sequences.spans(len(s))) for s in sequences]
        reasons: list[Reason | None] = [None] * len(sequences)
        while True:
            owners = [index for index, own in enumerate(windows) for _ in own]
            try:
                ran = list(self._run(list(chain(*windows)), model))
                break
            except WindowDoesNotFit as misfit:
                index = owners[misfit.place]
                windows[index] = self._cut_smaller(sequences[index], windows[index])
                reasons[index] = None if windows[index] else _DOES_NOT_FIT
        passes, finite = [values for values, _ in ran], [flags for _, flags in ran]
        arrived = arrival(model.device)
        return InFlight(sequences, batch.digests, windows, reasons, passes, finite, arrived)

    def _cut_smaller(self, sequence: bytes, windows: list[Window]) -> list[Window]:
        """Cut a sequence into windows of half the size; none if unwanted or too small."""
        half = windows[0].residues // 2
        if self.long_sequences.out_of_memory != SMALLER_WINDOWS or half < SMALLEST_WINDOW:
            return []
        log.warning("a sequence does not fit: in windows of %d residues", half)
        covered = windows[-1].start + windows[-1].residues
        overlap = min(self.long_sequences.overlap, half) // 2
        return cut_windows(sequence, cut(covered, half, overlap))

    def _run(
        self, windows: list[Window], model: PackedModel
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Run windows through the model in as few passes as the token budget allows.

        Raises:
            WindowDoesNotFit: memory ran out on one window alone.
        """
        first = 0
        while first < len(windows):
            end = self._end_of_pass(windows, first)
            ran = self._try_pass(windows[first:end], model)
            if ran is not None:
                yield ran
                if end < len(windows):
                    self.on_pass(sum(len(window.tokens) for window in windows[first:end]))
                first = end
                continue
            # By now the error's traceback is gone, and with it what its frames held on the device.
            torch.cuda.empty_cache()
            if end - first == 1:
                raise WindowDoesNotFit(first)
            self._halve_budget(sum(len(window.tokens) for window in windows[first:end]))

    def _try_pass(
        self, windows: Sequence[Window], model: PackedModel
    ) -> tuple[dict[str, Tensor], Tensor] | None:
        """Run one pass; None if memory does not suffice."""
        try:
            return self._pass(windows, model)
        except (RuntimeError, MemoryError) as error:
            if classify(error) != OUT_OF_MEMORY:
                raise
            return None

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

    def _pass(
        self, windows: Sequence[Window], model: PackedModel
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Run one pass over w windows of r residues in all.

        Returns:
            By key, values on their way to the host: (w, D) for outputs with one row a sequence,
            (r, D) for those with one a residue, and the contact maps flattened one after another;
            and whether all values of a window are finite, (w,) bool.
        """
        lengths = [len(window.tokens) for window in windows]
        residues = [window.residues for window in windows]
        tokens = to_device(np.concatenate([window.tokens for window in windows]), model.device)
        shares = to_device(np.concatenate([window.shares for window in windows]), model.device)
        first = np.cumsum([0, *lengths[:-1]])
        outer = np.concatenate([first, first + lengths - 1])
        bos = to_device(first, model.device)
        inner = to_device(np.delete(np.arange(sum(lengths)), outer), model.device)
        activations = model(tokens.int(), lengths, self.outputs, self.check_stop)
        means = {
            layer: _sum_runs(hidden * shares.unsqueeze(1), lengths)
            for layer, hidden in activations.hidden.items()
        }
        done = _Pass(activations, means, bos, inner)
        found = _Finite(len(windows), getattr(torch, self.outputs.store_dtype), tokens.device)
        values = {}
        for key in self.outputs.keys:
            output, layer = (parsed := Key.parse(key)).output, parsed.layer
            sizes = [output.rows(n) for n in residues] if output.ragged else None
            values[key] = found.check(_VALUES[output.name](done, layer), sizes)
        if MEAN not in self.outputs:  # a value that is not finite anywhere shows in the mean
            for mean in means.values():
                found.check(mean)
        return {key: to_host(x) for key, x in values.items()}, to_host(found.all)

    # -- collecting ----------------------------------------------------------------------------

    def _collect(self, batch: InFlight) -> Results:
        embedded = self._embedded(batch)
        failed = [index for index, one in enumerate(embedded) if one.reason == _NOT_FINITE]
        if failed and self.model.dtype != torch.float32:
            for index, one in zip(failed, self._embed_exactly(batch, failed), strict=True):
                embedded[index] = one
        return join(batch.digests, embedded, self.outputs)

    def _embedded(self, batch: InFlight) -> list[Embedded]:
        batch.arrived()
        passes = [{key: values.numpy() for key, values in one.items()} for one in batch.passes]
        residues = [window.residues for own in batch.windows for window in own]
        values = iter(split_by_window(passes, residues))
        finite = iter(flag for one in batch.finite for flag in one.tolist())
        embedded = []
        for windows, reason in zip(batch.windows, batch.reasons, strict=True):
            own = list(islice(values, len(windows)))
            if not all(list(islice(finite, len(windows)))):
                reason = _NOT_FINITE
            if reason:
                embedded.append(Embedded(reason=reason))
            else:
                starts = [window.start for window in windows]
                embedded.append(Embedded(stitch(starts, own), len(windows)))
        return embedded

    def _embed_exactly(self, batch: InFlight, which: list[int]) -> list[Embedded]:
        """Embed sequences in float32, after another precision gave NaN or infinity for them."""
        if self._exact_model is None:
            return [Embedded(reason=_NOT_FINITE)] * len(which)
        again = Batch([batch.sequences[index] for index in which], batch.digests[which])
        budget, tell = self.token_budget, self.on_smaller_budget
        # What does not fit in float32 is no news of the other precision.
        self.on_smaller_budget = lambda _: None
        try:
            return self._embedded(self._launch(again, self._exact_model))
        finally:
            self.token_budget, self.on_smaller_budget = budget, tell

    @cached_property
    def _exact_model(self) -> PackedModel | None:
        """The model in float32, beside the other one; None if both do not fit."""
        log.warning("a value in %s is not finite: computing it in float32", self.model.dtype)
        try:
            return self.load_model(torch.float32)
        except (RuntimeError, MemoryError) as error:
            if classify(error) != OUT_OF_MEMORY:
                raise
            log.warning("no room for the model in float32: %s", error)
        torch.cuda.empty_cache()
        return None


@dataclass(frozen=True)
class _Pass:
    """What a pass over w windows of r residues in all gave, and which of its tokens are which.

    Attributes:
        means: by layer, (w, D).
        bos: (w,) the place of each BOS among the tokens.
        inner: (r,) the places of the residues.
    """

    activations: Activations
    means: dict[int, Tensor]
    bos: Tensor
    inner: Tensor


# By output: its values from a pass, those of one window after those of another.
_VALUES: dict[str, Callable[[_Pass, int | None], Tensor]] = {
    MEAN: lambda done, layer: done.means[layer],
    BOS: lambda done, layer: done.activations.hidden[layer][done.bos],
    RESIDUES: lambda done, layer: done.activations.hidden[layer][done.inner],
    LOGITS: lambda done, _: done.activations.logits[done.inner],
    CONTACTS: lambda done, _: torch.cat([one.flatten() for one in done.activations.contacts]),
}


class _Finite:
    """Which windows of a pass have finite values only, in what they are stored in."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.all = torch.ones(count, dtype=torch.bool, device=device)
        self.dtype = dtype

    def check(self, values: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Return `values`, of which `sizes` rows belong to each window, or one."""
        bad = ~torch.isfinite(values.to(self.dtype)).reshape(len(values), -1).all(1, keepdim=True)
        if sizes is not None:
            bad = _sum_runs(bad.float(), sizes) > 0
        self.all &= ~bad[:, 0]
        return values


def _sum_runs(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum neighbouring rows of (r, D), `lengths` of them at a time, always in the same order."""
    sizes = to_device(np.array(lengths), x.device)
    return torch.segment_reduce(x, "sum", lengths=sizes, unsafe=True)
