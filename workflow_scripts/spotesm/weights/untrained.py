"""Random weights without a file: each tensor is drawn from a seed that its name gives."""

import argparse
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import esm
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from torch import Tensor

from spotesm.base.durable import replacing
from spotesm.base.paths import UNTRAINED
from spotesm.weights.architectures import (
    ESM1_POSITIONS,
    FREQUENCIES,
    LM_HEAD,
    Architecture,
    tensor_shapes,
)
from spotesm.weights.files import regression_path
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
    tensors[LM_HEAD[0]] = tensors["embed_tokens.weight"]
    return Source(UNTRAINED, architecture, tensors)


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    if "norm" in name:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + SEED)
    bound = 1.0 if name.startswith("embed") else math.sqrt(3 / shape[-1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def make_untrained(architecture: Architecture, path: Path) -> None:
    """Write a model of seeded random numbers, and its contact regression, as fair-esm would.

    The same architecture gives the same bytes, and so the same sha256, on every machine.
    """
    layers, dim, heads = (
        architecture.layers,
        architecture.embedding_dim,
        architecture.attention_heads,
    )
    config = argparse.Namespace(
        encoder_layers=layers,
        encoder_embed_dim=dim,
        encoder_attention_heads=heads,
        token_dropout=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if architecture.family == "esm2":
            model = ESM2(layers, dim, heads)
            content = {"cfg": {"model": config}}
        else:
            config.arch = "roberta_large"
            config.encoder_ffn_embed_dim = 4 * dim
            config.max_positions = ESM1_POSITIONS
            alphabet = esm.Alphabet.from_architecture("ESM-1b")
            model = ProteinBertModel(_esm1_arguments(config), alphabet)
            content = {"args": config}
    state = model.state_dict()
    regression = {name: state.pop(name) for name in list(state) if "contact_head" in name}
    trunk = {
        # fair-esm's files keep the language-model head outside the sentence encoder.
        f"encoder.{name}" if name.startswith("lm_head") else f"encoder.sentence_encoder.{name}": x
        for name, x in state.items()
    }
    if architecture.has_regression:
        _save(regression_path(path), {"model": regression})
    _save(path, {**content, "model": trunk})


def _esm1_arguments(config: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of fair-esm's `ProteinBertModel`; ESM-1b has a norm in front."""
    renamed = {name.removeprefix("encoder_"): value for name, value in vars(config).items()}
    return argparse.Namespace(**renamed, emb_layer_norm_before=True)


def _save(path: Path, content: dict) -> None:
    # Through an open file: given a path, torch.save would put the temporary name into the bytes.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
