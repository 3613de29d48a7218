"""What a layer computes between its products: regions, each over all tokens at once.

A CPU runs them as they are. A GPU would read and write memory for every single operation of them,
which holds the products up; there each region is compiled to one pass over memory.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotesm.weights.architectures import Architecture

log = logging.getLogger(__name__)

# `SPOTESM_COMPILE=0` leaves the regions as they are.
SWITCH = "SPOTESM_COMPILE"
TRIAL_TOKENS = (600, 1300)


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return the layer norm of (T, D) float32, as the next product wants it."""
    return F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype)


def add_norm(
    x: Tensor, y: Tensor, share: float, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (T, D) float32 plus a share of what a product gave, and the layer norm, like `y`."""
    x = torch.add(x, y, alpha=share)
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


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rotation: Tensor) -> Tensor:
    """Norm queries or keys (T, D) of paired features over all heads, and turn them by their places.

    Args:
        rotation: (T, head_dim / 2, 2), of each token.

    Returns:
        (T, heads, head_dim), like `x`, rounded once.
    """
    normed = F.layer_norm(x.float(), weight.shape, weight, None, eps)
    pairs = torch.view_as_complex(normed.unflatten(-1, (-1, *rotation.shape[1:])))
    turned = pairs.mul_(torch.view_as_complex(rotation)[:, None])
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def norm_rotate_by_parts(x: Tensor, weight: Tensor, eps: float, rotation: Tensor) -> Tensor:
    """Do the same in real numbers."""
    normed = F.layer_norm(x.float(), weight.shape, weight, None, eps)
    a, b = normed.unflatten(-1, (-1, rotation.shape[1], 2)).unbind(-1)
    cos, sin = rotation[:, None].unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """Return what gates let through, (T, N / 2): the gates of (T, N), then what they are for.

    Overwrites `x`.
    """
    gates, values = x.chunk(2, 1)
    return torch.ops.aten.silu_(gates).mul_(values)


def swiglu_anew(x: Tensor) -> Tensor:
    """Do the same in new memory, in float32, rounded once."""
    gates, values = x.float().chunk(2, 1)
    return (F.silu(gates) * values).to(x.dtype)


@dataclass(frozen=True)
class Regions:
    """All of them, as they are called for each layer; no family has every one."""

    norm: Callable[..., Tensor] = norm
    add_norm: Callable[..., tuple[Tensor, Tensor]] = add_norm
    rotate: Callable[..., Tensor] = rotate
    norm_rotate: Callable[..., Tensor] = norm_rotate
    swiglu: Callable[..., Tensor] = swiglu


def choose_regions(
    device: torch.device, dtype: torch.dtype, architecture: Architecture, used: Collection[str]
) -> Regions:
    """Return compiled regions on a GPU, if they compile and give what the plain ones do.

    Args:
        used: those that the model's layers have.
    """
    plain = Regions()
    if device.type != "cuda":
        return plain
    missing = _what_is_missing(device)
    if missing is None:
        try:
            compiled = compile_regions()
            _compare(plain, compiled, device, dtype, architecture, used)
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
    regions = (norm, add_norm, rotate_by_parts, norm_rotate_by_parts, swiglu_anew)
    return Regions(*map(_compile, regions))


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
    architecture: Architecture,
    used: Collection[str],
) -> None:
    """Run both on random numbers, of two numbers of tokens.

    Raises:
        ValueError: they differ by more than rounding.
    """
    dim, heads = architecture.embedding_dim, architecture.attention_heads
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    # Made as a model's are: what is compiled for tensors of inference mode is for no others.
    weight, bias = nn.Parameter(random(dim)), nn.Parameter(random(dim))
    with torch.inference_mode():
        for tokens in TRIAL_TOKENS:
            x, y = random(tokens, dim), random(tokens, dim).to(dtype)
            rotation = random(tokens, dim // heads // 2, 2)
            trials = {
                "norm": (x, weight, bias, 1e-5, dtype),
                "add_norm": (x, y, 0.9, weight, bias, 1e-5),
                "rotate": (random(tokens, 2, heads, dim // heads).to(dtype), rotation),
                "norm_rotate": (y, weight, 1e-5, rotation),
                "swiglu": (random(tokens, 2 * architecture.feed_forward_dim).to(dtype),),
            }
            for name in used:
                # The compiled one first: the plain one may overwrite what it is given.
                theirs, ours = (getattr(own, name)(*trials[name]) for own in (compiled, plain))
                if isinstance(ours, Tensor):
                    ours, theirs = (ours,), (theirs,)
                for one, other in zip(ours, theirs, strict=True):
                    _check_close(one, other)


def _check_close(one: Tensor, other: Tensor) -> None:
    tolerance = 4 * torch.finfo(one.dtype).eps
    if not torch.allclose(one, other, rtol=tolerance, atol=4 * tolerance):
        worst = (one.float() - other.float()).abs().max().item()
        raise ValueError(f"compiled, values differ by up to {worst:.1e}")
