"""Random weights without a file: each tensor is drawn from a seed that its name gives."""

import math
import zlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from spotesm.base.paths import UNTRAINED
from spotesm.weights.architectures import FREQUENCIES, LM_HEAD, Architecture, tensor_shapes
from spotesm.weights.tensors import Source

SEED = 2  # any fixed number
RECIPE = f"spotesm untrained weights, recipe 1, seed {SEED}"  # change it when the numbers change


def untrained_source(architecture: Architecture) -> Source:
    """Return a model of random numbers, the same in every process and on every machine.

    Norms are the identity; all else is uniform, scaled by its fan-in as `torch.nn.Linear` does.
    """
    shapes = tensor_shapes(architecture)
    shapes.pop(FREQUENCIES, None)
    if not architecture.has_regression:
        shapes = {name: shape for name, shape in shapes.items() if "contact" not in name}
    tensors: dict[str, Callable[[], Tensor]] = {
        name: partial(_draw, name, shape) for name, shape in shapes.items()
    }
    if architecture.traits.tied:
        tensors[LM_HEAD[0]] = tensors["embed_tokens.weight"]
    return Source(UNTRAINED, architecture, tensors)


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    if "norm" in name:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + SEED)
    bound = 1.0 if name.startswith("embed") else math.sqrt(3 / shape[-1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
