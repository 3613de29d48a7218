"""Weights without a file, against numpy's Mersenne twister."""

import math
import zlib

import numpy as np
import pytest
import torch
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.untrained import RECIPE, untrained_source

RECIPE_OF_THIS_TEST = "spotesm untrained weights, recipe 1, seed 2"


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("embed_tokens.weight", 1.0),
        ("layers.0.self_attn.q_proj.weight", math.sqrt(3 / 320)),
        ("layers.3.fc1.bias", math.sqrt(3 / 1280)),
        ("layers.5.fc2.weight", math.sqrt(3 / 1280)),
        ("contact_head.regression.weight", math.sqrt(3 / 120)),
    ],
)
def test_numbers_follow_from_name_and_seed(name: str, bound: float) -> None:
    """Another seed, or another way to it, is another recipe: finished results name theirs."""
    assert RECIPE == RECIPE_OF_THIS_TEST
    tensor = untrained_source(ARCHITECTURES["esm2_t6_8M_UR50D"]).get(name)
    twister = np.random.RandomState(zlib.crc32(name.encode()) + 2)
    bits = twister.randint(0, 1 << 32, size=tensor.shape, dtype=np.uint32)
    # 24 bits are the digits of a float32 in [0, 1).
    expected = bound * (2 * ((bits & 0xFFFFFF) / 2**24) - 1)
    torch.testing.assert_close(tensor.numpy(), expected.astype(np.float32), rtol=0, atol=1e-7)
