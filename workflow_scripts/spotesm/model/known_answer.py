"""What published models give: a check of the whole way from a download to the engine.

The numbers are those that transformers' own integration tests expect of facebook/esm2_t6_8M_UR50D
(tests/models/esm/test_modeling_esm.py), and of biohub/ESMC-300M, which they compute in bfloat16
(tests/models/esmc/test_modeling_esmc.py).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spotesm.base.failures import WeightsError
from spotesm.base.paths import HUB, PRETRAINED
from spotesm.model.packed import PackedModel
from spotesm.request.outputs import LOGITS, RESIDUES, Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.weights.manifest import Weights

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Answer:
    """What a model gives for some tokens.

    Attributes:
        tokens: one sequence, BOS and EOS included.
        output: `residues`, the last hidden layer, or `logits`.
        values: the first features of some tokens.
        first: which token the first row of `values` is.
        tolerance: how far a value may be off.
    """

    tokens: tuple[int, ...]
    output: str
    values: tuple[tuple[float, ...], ...]
    first: int = 0
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Known:
    """What is known of a model.

    Attributes:
        hub: OWNER/NAME on the hub of Hugging Face.
    """

    hub: str
    answers: Sequence[Answer]


_ESMC_TOKENS = tuple(tokenise(b"MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ").tolist())
KNOWN = {
    "esm2_t6_8M_UR50D": Known(
        "facebook/esm2_t6_8M_UR50D",
        (
            Answer(
                (0, 6, 4, 13, 5, 4, 16, 12, 11, 7, 2),  # GLDALQITV
                RESIDUES,
                ((0.1444, 0.5413, 0.3248), (0.3034, 0.0053, 0.3108), (0.3228, -0.2499, 0.3415)),
            ),
            Answer(
                (0, 1, 2, 3, 4, 5),
                LOGITS,
                (
                    (8.9215, -10.5898, -6.4671),
                    (-6.3967, -13.9114, -1.1212),
                    (-7.7812, -13.9516, -3.7406),
                ),
            ),
        ),
    ),
    "esmc_300m": Known(
        "biohub/ESMC-300M",
        (
            Answer(
                _ESMC_TOKENS,
                RESIDUES,
                (
                    (0.00708, -0.008179, 0.038574, 0.038574, 0.011597, 0.039307),
                    (-0.015991, -0.016968, 0.008911, 0.02771, 0.003784, 0.071777),
                    (-0.003159, -0.026489, 0.002502, 0.02417, 0.024902, 0.047852),
                ),
                first=1,
                tolerance=1e-2,
            ),
            Answer(
                _ESMC_TOKENS,
                LOGITS,
                (
                    (-36.0, -36.0, -36.25, 14.25, 21.375, 20.125),
                    (-29.875, -29.875, -29.875, 22.5, 28.125, 27.75),
                    (-31.25, -31.25, -31.25, 21.125, 27.5, 27.125),
                ),
                first=1,
                tolerance=0.8,
            ),
        ),
    ),
}


def check_known_answer(weights: Weights) -> None:
    """Compute what is known of a published model, and compare; other weights are left alone.

    Raises:
        WeightsError: it gives other numbers.
    """
    known = KNOWN.get(weights.model)
    if known is None or weights.adapter or not _is_published(weights.source, known):
        return
    engine = PackedModel.of_source(weights.open(), CPU, torch.float32)
    for answer in known.answers:
        off = (_compute(engine, answer) - torch.tensor(answer.values)).abs().max().item()
        if not off <= answer.tolerance:
            raise WeightsError(
                f"{weights.path}: not the published {weights.model}: its {answer.output} are "
                f"{off:.2g} off what is known of it; remove the file and fetch it again, or name "
                "it by its path if it is a model of yours"
            )
    log.info("%s gives the numbers that are known of it", weights.model)


def _is_published(source: str, known: Known) -> bool:
    of_hub = (f"{HUB}{known.hub}@", f"{PRETRAINED}@")
    return source == PRETRAINED or source.startswith(of_hub)


def _compute(engine: PackedModel, answer: Answer) -> torch.Tensor:
    """Return the values of the same tokens and features."""
    last = engine.n_layers
    layers = () if answer.output == LOGITS else (last,)
    tokens = torch.tensor(answer.tokens)
    found = engine(tokens, [len(tokens)], Outputs((answer.output,), layers))
    values = found.logits if answer.output == LOGITS else found.hidden[last]
    assert values is not None
    rows, columns = len(answer.values), len(answer.values[0])
    return values[answer.first : answer.first + rows, :columns].float()
