"""The matrix products of a layer against the formula, in double precision."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from processors import fused_bfloat16, fused_float32
from spotesm.model import products, regions
from spotesm.model.products import FusedProducts, Products, choose_products

pytestmark = pytest.mark.processor
CPU = torch.device("cpu")
TOKENS, DIM = 700, 96  # more rows than a block of oneDNN's, and no multiple of one


def operands(
    inner: int, outer: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outer)
    x = torch.randn(TOKENS, inner, generator=generator)
    weight = torch.randn(outer, inner, generator=generator) / inner**0.5
    return x.to(dtype), weight.to(dtype), torch.randn(outer, generator=generator).to(dtype)


@pytest.mark.parametrize(("inner", "outer"), [(DIM, 3 * DIM), (DIM, DIM), (4 * DIM, DIM)])
@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        (Products, torch.float32),
        (Products, torch.bfloat16),
        (Products, torch.float16),
        pytest.param(FusedProducts, torch.bfloat16, marks=fused_bfloat16),
        pytest.param(FusedProducts, torch.float32, marks=fused_float32),
    ],
)
@torch.inference_mode()
def test_a_product_equals_the_formula(
    way: type, dtype: torch.dtype, inner: int, outer: int
) -> None:
    x, weight, bias = operands(inner, outer, dtype)
    got = way(TOKENS, DIM, 4 * DIM, dtype, CPU).linear(x, weight, bias)
    assert got.dtype == dtype
    expected = F.linear(x.double(), weight.double(), bias.double())
    # The sum in float32, then one rounding.
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@fused_bfloat16
@torch.inference_mode()
def test_gelu_is_applied_before_rounding() -> None:
    """Fails if the private operation of oneDNN is gone, or does anything else than it did."""
    x, weight, bias = operands(DIM, 4 * DIM, torch.bfloat16)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    fused = FusedProducts().linear_gelu(x, weight, bias)
    torch.testing.assert_close(
        fused.double(), exact, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-4
    )
    plain = Products(TOKENS, DIM, 4 * DIM, torch.bfloat16, CPU).linear_gelu(x, weight, bias)
    torch.testing.assert_close(plain.double(), exact, rtol=2e-2, atol=2e-2)
    assert (fused - exact).square().mean() < (plain - exact).square().mean()


@pytest.mark.parametrize("way", [Products, pytest.param(FusedProducts, marks=fused_float32)])
@torch.inference_mode()
def test_gelu_in_float32(way: type) -> None:
    x, weight, bias = operands(DIM, 4 * DIM, torch.float32)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    got = way(TOKENS, DIM, 4 * DIM, torch.float32, CPU).linear_gelu(x, weight, bias)
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-5)


PLAIN = (Products, torch.float32), (Products, torch.bfloat16), (Products, torch.float16)
FUSED = (
    pytest.param(FusedProducts, torch.float32, marks=fused_float32),
    pytest.param(FusedProducts, torch.bfloat16, marks=fused_bfloat16),
)


@pytest.mark.parametrize(("way", "dtype"), [*PLAIN, *FUSED])
@torch.inference_mode()
def test_products_without_a_bias_and_swiglu(way: type, dtype: torch.dtype) -> None:
    x, weight, _ = operands(DIM, 6 * DIM, dtype)
    products = way(TOKENS, DIM, 6 * DIM, dtype, CPU)
    expected = F.linear(x.double(), weight.double())
    eps = torch.finfo(dtype).eps
    got = products.linear(x, weight)
    torch.testing.assert_close(got.double(), expected, rtol=eps, atol=1e-5)
    got = products.linear_swiglu(x, weight, regions.swiglu)
    assert got.shape == (TOKENS, 3 * DIM)
    gates, values = expected.chunk(2, 1)
    exact = F.silu(gates) * values
    torch.testing.assert_close(got.double(), exact, rtol=8 * eps, atol=max(8 * eps, 1e-5))


@fused_bfloat16
@torch.inference_mode()
def test_swiglu_is_rounded_less_often_than_where_it_is_not_fused() -> None:
    """Fails if the private operations of oneDNN are gone, or do anything else than they did."""
    x, weight, _ = operands(DIM, 8 * DIM, torch.bfloat16)
    gates, values = F.linear(x.double(), weight.double()).chunk(2, 1)
    exact = F.silu(gates) * values
    fused, plain = (
        way(TOKENS, DIM, 8 * DIM, torch.bfloat16, CPU).linear_swiglu(x, weight, regions.swiglu)
        for way in (FusedProducts, Products)
    )
    assert (fused - exact).square().mean() < (plain - exact).square().mean()


def test_each_precision_has_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch says of the processor is another source than the trial."""
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for dim in (320, 480, 640):
        half = choose_products(CPU, torch.bfloat16, dim)
        assert half is (FusedProducts if supported else Products)
        assert choose_products(CPU, torch.float16, dim) is Products
        assert choose_products(torch.device("cuda"), torch.bfloat16, dim) is Products
        single = choose_products(CPU, torch.float32, dim)
        assert single is (Products if dim == 640 else FusedProducts)
    monkeypatch.setattr(products.torch.ops, "mkldnn", object())  # a build without oneDNN
    for dtype in (torch.bfloat16, torch.float32):
        assert choose_products(CPU, dtype, 320) is Products


@pytest.mark.parametrize("kind", ["none", "gelu"])
def test_an_operation_that_fails_on_this_processor_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fails(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *way: object) -> None:
        if way[0] == kind:
            raise RuntimeError("could not create a primitive descriptor")

    operations = SimpleNamespace(_linear_pointwise=fails)
    monkeypatch.setattr(products.torch.ops, "mkldnn", operations)
    for dtype in (torch.bfloat16, torch.float32):
        assert choose_products(CPU, dtype, 320) is Products
