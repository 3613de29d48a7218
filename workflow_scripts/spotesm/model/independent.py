"""What values should be: by forwards that share nothing with the packed engine but the weights.

One window of one sequence at a time, tokenised and computed by fair-esm, or by transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spotesm.model.reference import ALPHABET, FairESM, fair_esm_model
from spotesm.request.outputs import BOS, CONTACTS, LOGITS, MEAN, RESIDUES, Key
from spotesm.weights.tensors import Source


class NotInstalledError(Exception):
    """The library that computes a family by itself is not here; says what to install."""


@dataclass(frozen=True)
class Computed:
    """What a model gives for one window of l residues; l + 2 tokens.

    Attributes:
        hidden: by layer, (l + 2, D).
        logits: (l + 2, V).
        contacts: (l, l); None if they were not asked for.
    """

    hidden: Mapping[int, Tensor]
    logits: Tensor
    contacts: Tensor | None = None


@dataclass(frozen=True)
class Forward:
    """An independent forward.

    Attributes:
        name: of the library that computes it.
        compute: what it gives for a window, of the layers asked for, and contacts if asked for.
    """

    name: str
    compute: Callable[[bytes, Sequence[int], bool], Computed]


def independent_forward(source: Source) -> Forward:
    """Return the forward of the library that a model's family comes from.

    Raises:
        NotInstalledError: it is not installed.
    """
    return FORWARDS[source.architecture.family](source)


# -- fair-esm --------------------------------------------------------------------------------------


def _by_fair_esm(source: Source) -> Forward:
    return Forward("fair-esm", partial(_compute_by_fair_esm, fair_esm_model(source)))


def _compute_by_fair_esm(
    model: FairESM, residues: bytes, layers: Sequence[int], contacts: bool
) -> Computed:
    _, _, tokens = ALPHABET.get_batch_converter()([("", residues.decode())])
    result = model(tokens, repr_layers=layers, return_contacts=contacts)
    hidden = {layer: tokens[0] for layer, tokens in result["representations"].items()}
    return Computed(hidden, result["logits"][0], result["contacts"][0] if contacts else None)


# -- transformers ----------------------------------------------------------------------------------


def esmc_of_transformers(source: Source, dtype: torch.dtype = torch.float32) -> Any:
    """Return transformers' `EsmcForMaskedLM` over the tensors of a source; a missing head is zero.

    Raises:
        NotInstalledError: there is no transformers, or none that has ESM C.
    """
    try:
        from transformers import EsmcConfig, EsmcForMaskedLM  # not everybody needs it
    except ImportError as error:
        raise NotInstalledError(
            "needs a transformers that has ESM C (pip install 'transformers>=5.23')"
        ) from error
    shape = source.architecture
    config = EsmcConfig(
        hidden_size=shape.embedding_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        intermediate_size=shape.feed_forward_dim,
    )
    with torch.device("meta"):
        model = EsmcForMaskedLM(config)
    state = {}
    for name, empty in model.state_dict().items():
        ours = name.removeprefix("esmc.").replace("lm_head.decoder.", "lm_head.")
        there = ours in source.names
        state[name] = source.get(ours).to(dtype) if there else torch.zeros(empty.shape, dtype=dtype)
    model.load_state_dict(state, assign=True)
    # Its frequencies are in no file, and have no numbers where the rest is to come from one.
    model.esmc.rotary_emb = type(model.esmc.rotary_emb)(config)
    return model.eval()


def _by_transformers(source: Source) -> Forward:
    model = esmc_of_transformers(source)
    from transformers import EsmcTokenizer

    return Forward("transformers", partial(_compute_by_transformers, model, EsmcTokenizer()))


def _compute_by_transformers(
    model: Any, tokenizer: Any, residues: bytes, layers: Sequence[int], _: bool
) -> Computed:
    tokens = tokenizer(residues.decode(), return_tensors="pt").input_ids
    result = model(tokens, output_hidden_states=True)
    return Computed({layer: result.hidden_states[layer][0] for layer in layers}, result.logits[0])


FORWARDS: dict[str, Callable[[Source], Forward]] = {
    "esm1": _by_fair_esm,
    "esm2": _by_fair_esm,
    "esmc": _by_transformers,
}


# -- from windows to outputs -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Windows:
    """What is computed for each window of one sequence."""

    spans: Sequence[slice]
    results: list[Computed]

    @cached_property
    def coverage(self) -> np.ndarray:
        covered = np.zeros((self.spans[-1].stop, 1), np.float32)
        for span in self.spans:
            covered[span] += 1
        return covered

    def layer(self, number: int | None) -> list[np.ndarray]:
        assert number is not None
        return [result.hidden[number].numpy() for result in self.results]

    def logits(self) -> list[np.ndarray]:
        return [result.logits.numpy() for result in self.results]

    def contacts(self) -> list[np.ndarray]:
        return [result.contacts.numpy() for result in self.results if result.contacts is not None]

    def average(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Average tokens (l + 2, D) of each window into residues (L, D)."""
        total = np.zeros((len(self.coverage), windows[0].shape[1]), np.float32)
        for span, tokens in zip(self.spans, windows, strict=True):
            total[span] += tokens[1:-1]
        return total / self.coverage


# By output: what it should be; contacts are one map a window, (w, l, l).
REFERENCE_VALUES: dict[str, Callable[[_Windows, int | None], np.ndarray]] = {
    MEAN: lambda windows, layer: windows.average(windows.layer(layer)).mean(0),
    BOS: lambda windows, layer: np.mean([tokens[0] for tokens in windows.layer(layer)], axis=0),
    RESIDUES: lambda windows, layer: windows.average(windows.layer(layer)),
    LOGITS: lambda windows, _: windows.average(windows.logits()),
    CONTACTS: lambda windows, _: np.stack(windows.contacts()),
}


@torch.inference_mode()
def reference_values(
    forward: Forward, sequence: bytes, spans: Sequence[slice], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what the outputs `keys` of one sequence should be.

    Args:
        spans: which residues go through the model together.
    """
    parsed = {key: Key.parse(key) for key in keys}
    wanted = {key: one for key, one in parsed.items() if one is not None}
    layers = [one.layer for one in wanted.values() if one.layer is not None]
    contacts = any(one.output.name == CONTACTS for one in wanted.values())
    windows = _Windows(spans, [forward.compute(sequence[s], layers, contacts) for s in spans])
    return {
        key: REFERENCE_VALUES[one.output.name](windows, one.layer) for key, one in wanted.items()
    }
