"""The matrix products of a layer: (T, K) times (N, K) transposed, plus a bias if there is one.

Two ways, one result: `Products` by PyTorch's public operations, and `FusedProducts` where oneDNN
does more in one pass (bfloat16 on a CPU, and float32 in narrow models).
"""

from collections.abc import Callable

import torch
from torch import Tensor

# In float32, what copying the bias and returning for GELU costs shows in narrow models only.
WIDEST_FUSED_FLOAT32 = 480
TRIAL_SIZE = 64


class Products:
    """Products of T tokens, in memory that every layer uses again.

    Were it given back after each product, a CPU would get it anew from the system, page by page.
    """

    rows_at_once = 1

    def __init__(
        self, tokens: int, dim: int, widest: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Take the memory.

        Args:
            dim: of the model.
            widest: columns of the widest product.
        """
        # Two products are alive at once: a wide one, and one as wide as the model.
        self.wide = torch.empty(tokens * widest, dtype=dtype, device=device)
        self.narrow = torch.empty(tokens * dim, dtype=dtype, device=device)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return `F.linear` of (T, K), in `narrow` or `wide`, until the next product there."""
        memory = self.narrow if len(x) * len(weight) <= len(self.narrow) else self.wide
        out = memory[: len(x) * len(weight)].view(len(x), len(weight))
        if bias is None:
            return torch.mm(x, weight.t(), out=out)
        return torch.addmm(bias, x, weight.t(), out=out)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the GELU of it, likewise."""
        return torch.ops.aten.gelu_(self.linear(x, weight, bias))

    def linear_swiglu(
        self, x: Tensor, weight: Tensor, swiglu: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the SwiGLU of it, (T, N / 2), likewise.

        Args:
            weight: of the gates, and below them of what they let through.
            swiglu: of `Regions`.
        """
        return swiglu(self.linear(x, weight))


class FusedProducts:
    """The same by oneDNN itself, which adds the bias and applies GELU or SwiGLU before it rounds.

    PyTorch's own way to it copies the bias first, and returns to memory before GELU. The operation
    is what PyTorch's compiler puts in place of linear layers; it is private, so a test watches it.

    oneDNN compiles a kernel for each number of rows, which takes as long as to multiply hundreds of
    them, and keeps a thousand kernels: batches are filled up, so that the numbers are few.
    """

    rows_at_once = 64

    def __init__(self, *_: object) -> None:
        self.operation = torch.ops.mkldnn._linear_pointwise

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return `F.linear` of (T, K), in new memory."""
        return self.operation(x, weight, bias, "none", [], "none")

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the GELU of it, the exact one by the error function."""
        return self.operation(x, weight, bias, "gelu", [], "none")

    def linear_swiglu(self, x: Tensor, weight: Tensor, _: object) -> Tensor:
        """Return the SwiGLU of it, (T, N / 2), which two products apply before they round."""
        of_gates, of_values = weight.chunk(2)
        gates = self.operation(x, of_gates, None, "swish", [], "none")
        return self.operation.binary(x, gates, of_values, None, "mul")


def choose_products(
    device: torch.device, dtype: torch.dtype, dim: int
) -> type[Products] | type[FusedProducts]:
    """Return the fastest way that the device has in this precision, for a model `dim` wide."""
    pays = dtype == torch.bfloat16 or (dtype == torch.float32 and dim <= WIDEST_FUSED_FLOAT32)
    fused = device.type == "cpu" and pays and has_fused_products(dtype)
    return FusedProducts if fused else Products


def has_fused_products(dtype: torch.dtype) -> bool:
    """Whether this build and this processor have oneDNN's products in a precision.

    It is tried: bfloat16 needs AVX-512 or better, and what oneDNN may use of a processor can be
    limited by its environment.
    """
    x, weight, bias = torch.ones(3, TRIAL_SIZE, TRIAL_SIZE, dtype=dtype)
    try:
        with torch.inference_mode():
            products = FusedProducts()
            products.linear(x, weight, bias[0])
            products.linear_gelu(x, weight, bias[0])
            products.linear_swiglu(x, weight, None)
    except (AttributeError, RuntimeError):
        return False
    return True


def sum_in_float32() -> None:
    """Keep a GPU from adding up parts of a half-precision product in half precision."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
