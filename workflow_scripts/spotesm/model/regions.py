"""What a layer computes between its products: three regions, each over all tokens at once.

A CPU runs them as they are. A GPU would read and write memory for every single operation of them,
which holds the products up; there each region is compiled to one pass over memory.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

# `SPOTESM_COMPILE=0` leaves the regions as they are.
SWITCH = "SPOTESM_COMPILE"
TRIAL_TOKENS = (600, 1300)


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return the layer norm of (T, D) float32, as the next product wants it."""
    return F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype)


def add_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (T, D) float32 plus what a product gave, and the layer norm of that, like `y`."""
    x = x + y
    return x, F.layer_norm(x, weight.shape, weight, bias, eps).to(y.dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn queries and keys, (T, 2, heads, head_dim) of paired features, by their places.

    Overwrites `x` where it is float32.

    Args:
        rotation: (T, head_dim / 2, 2), of each token.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs.mul_(torch.view_as_complex(rotation[:, None, None]))
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def rotate_by_parts(x: Tensor, rotation: Tensor) -> Tensor:
    """Do the same in real numbers, as a compiler wants it; does not overwrite `x`."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation[:, None, None].unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class Regions:
    """The three, as they are called for each layer."""

    norm: Callable[..., Tensor] = norm
    add_norm: Callable[..., tuple[Tensor, Tensor]] = add_norm
    rotate: Callable[..., Tensor] = rotate


def choose_regions(device: torch.device, dtype: torch.dtype, dim: int, heads: int) -> Regions:
    """Return compiled regions on a GPU, if they compile and give what the plain ones do."""
    plain = Regions()
    if device.type != "cuda":
        return plain
    missing = _what_is_missing(device)
    if missing is None:
        try:
            compiled = compile_regions()
            _compare(plain, compiled, device, dtype, dim, heads)
        # A compiler fails in many ways, none of which must end a run.
        except Exception as error:
            missing = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            log.info("what lies between products is compiled")
            return compiled
    log.info("what lies between products is not compiled: %s", missing)
    return plain


def compile_regions() -> Regions:
    """Return the regions compiled, for any number of tokens."""
    return Regions(*(_compile(region) for region in (norm, add_norm, rotate_by_parts)))


def _compile(region: Callable) -> Callable:
    compiled = torch.compile(region, fullgraph=True)

    def call(*arguments: object) -> object:
        for own in arguments:
            if isinstance(own, Tensor) and own.dim() > 1:  # weights have one dimension, of one size
                torch._dynamo.mark_dynamic(own, 0)
        return compiled(*arguments)

    return call


def _what_is_missing(device: torch.device) -> str | None:
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "the GPU is older than Triton wants"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "there is no C compiler"
    return None


def _compare(
    plain: Regions,
    compiled: Regions,
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    heads: int,
) -> None:
    """Run both on random numbers, of two numbers of tokens.

    Raises:
        ValueError: they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    # Made as a model's are: what is compiled for tensors of inference mode is for no others.
    weight, bias = nn.Parameter(random(dim)), nn.Parameter(random(dim))
    with torch.inference_mode():
        for tokens in TRIAL_TOKENS:
            x, y = random(tokens, dim), random(tokens, dim).to(dtype)
            pairs = random(tokens, 2, heads, dim // heads).to(dtype)
            rotation = random(tokens, dim // heads // 2, 2)
            # The compiled one first: the plain one overwrites what it turns.
            theirs, ours = (
                (
                    own.rotate(pairs, rotation),
                    own.norm(x, weight, bias, 1e-5, dtype),
                    *own.add_norm(x, y, weight, bias, 1e-5),
                )
                for own in (compiled, plain)
            )
            for one, other in zip(ours, theirs, strict=True):
                tolerance = 4 * torch.finfo(one.dtype).eps
                if not torch.allclose(one, other, rtol=tolerance, atol=4 * tolerance):
                    worst = (one.float() - other.float()).abs().max().item()
                    raise ValueError(f"compiled, values differ by up to {worst:.1e}")
