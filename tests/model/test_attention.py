"""Each way to attend within packed sequences, against the formula written out."""

import pytest
import torch
from spotesm.model.attention import BlockAttention, PaddedAttention, VarlenAttention

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
LENGTHS = [9, 9, 8, 8, 7, 5, 5, 5, 2, 1, 1]
HEADS, HEAD_DIM = 3, 16

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def attend_by_the_formula(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    out = []
    for q, k, v in zip(*(x.split(LENGTHS) for x in (query, key, value)), strict=True):
        scores = torch.einsum("ihd,jhd->hij", q, k) / HEAD_DIM**0.5
        out.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v))
    return torch.cat(out)


@pytest.mark.parametrize(
    ("attention", "device", "dtype", "tolerance"),
    [
        (BlockAttention, CPU, torch.float32, 1e-6),
        (PaddedAttention, CPU, torch.float32, 1e-6),
        pytest.param(PaddedAttention, CUDA, torch.float32, 1e-5, marks=on_gpu),
        pytest.param(PaddedAttention, CUDA, torch.float16, 2e-3, marks=on_gpu),
        pytest.param(VarlenAttention, CUDA, torch.float16, 2e-3, marks=on_gpu),
        pytest.param(VarlenAttention, CUDA, torch.bfloat16, 2e-2, marks=on_gpu),
    ],
)
def test_attends_within_each_sequence(
    attention: type, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    packed = torch.randn(3, sum(LENGTHS), HEADS, HEAD_DIM, generator=generator)
    query, key, value = packed.to(device, dtype)
    out = attention(LENGTHS, device)(query, key, value)
    assert out.shape == value.shape
    expected = attend_by_the_formula(*packed)
    torch.testing.assert_close(out.float().cpu(), expected, rtol=0, atol=tolerance)


def test_padding_is_bounded() -> None:
    lengths = [1000, 900, 800, 500, 499, 100, 1]
    blocks = [valid.shape for _, valid, *_ in PaddedAttention(lengths, CPU).blocks]
    assert [(count, longest) for count, _, _, longest in blocks] == [
        (2, 1000),
        (1, 800),
        (2, 500),
        (1, 100),
        (1, 1),
    ]
