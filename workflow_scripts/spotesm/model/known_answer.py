"""What the published 8M model gives: a check of the whole way from a download to the engine.

The numbers are those that transformers' own integration test of ESM expects of
facebook/esm2_t6_8M_UR50D (tests/models/esm/test_modeling_esm.py).
"""

import logging
from dataclasses import dataclass

import torch

from spotesm.base.failures import WeightsError
from spotesm.base.paths import HUB, PRETRAINED
from spotesm.model.packed import PackedESM2
from spotesm.request.outputs import LOGITS, RESIDUES, Outputs
from spotesm.weights.manifest import Weights

log = logging.getLogger(__name__)

MODEL, LAYERS = "esm2_t6_8M_UR50D", 6
TOLERANCE = 1e-4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Answer:
    """What the model gives for some tokens.

    Attributes:
        tokens: one sequence, BOS and EOS included.
        output: `residues`, the last hidden layer, or `logits`.
        values: the first three features of the first three tokens.
    """

    tokens: tuple[int, ...]
    output: str
    values: tuple[tuple[float, ...], ...]


ANSWERS = (
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
)


def check_known_answer(weights: Weights) -> None:
    """Compute what is known of a published model, and compare; other weights are left alone.

    Raises:
        WeightsError: it gives other numbers.
    """
    published = weights.source == PRETRAINED or weights.source.startswith(f"{HUB}facebook/{MODEL}@")
    if weights.model != MODEL or weights.adapter or not published:
        return
    engine = PackedESM2.of_source(weights.open(), CPU, torch.float32)
    for answer in ANSWERS:
        off = (_compute(engine, answer) - torch.tensor(answer.values)).abs().max().item()
        if not off <= TOLERANCE:
            raise WeightsError(
                f"{weights.path}: not the published {MODEL}: its {answer.output} are {off:.2g} off "
                "what is known of it; remove the file and fetch it again, or name it by its path "
                "if it is a model of yours"
            )
    log.info("%s gives the numbers that are known of it", MODEL)


def _compute(engine: PackedESM2, answer: Answer) -> torch.Tensor:
    """Return the first values, (3, 3)."""
    layers = () if answer.output == LOGITS else (LAYERS,)
    tokens = torch.tensor(answer.tokens)
    found = engine(tokens, [len(tokens)], Outputs((answer.output,), layers))
    values = found.logits if answer.output == LOGITS else found.hidden[LAYERS]
    assert values is not None
    return values[:3, :3].float()
