"""Each way to attend within packed sequences, against the formula written out."""

import pytest
import torch
from spotesm.model.attention import (
    LONGEST_FILLED,
    BlockAttention,
    FilledAttention,
    PaddedAttention,
    VarlenAttention,
    choose_attention,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
# Above and at the longest whose keys are filled up, and all that can be left over below it.
LENGTHS = [LONGEST_FILLED + 2, LONGEST_FILLED, 37, 36, 32, 31, 31, 9, 8, 8, 7, 5, 5, 5, 2, 1, 1]
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
        (BlockAttention, CPU, torch.float32, 2e-6),
        (FilledAttention, CPU, torch.float32, 2e-6),
        (FilledAttention, CPU, torch.bfloat16, 2e-2),
        (PaddedAttention, CPU, torch.float32, 2e-6),
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


def test_keys_are_filled_up_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_attention(CPU, torch.bfloat16) is FilledAttention
    assert choose_attention(CPU, torch.float32) is BlockAttention
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watch(query: torch.Tensor, key: torch.Tensor, *rest: object, **mask: object) -> object:
        seen.append((query.shape[2], key.shape[2]))
        return attend(query, key, *rest, **mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    query, key, value = torch.randn(3, sum(LENGTHS), HEADS, HEAD_DIM).bfloat16()
    FilledAttention(LENGTHS, CPU)(query, key, value)
    filled = {LONGEST_FILLED: 512, 37: 48, 31: 32, 9: 16, 8: 16, 7: 16, 5: 16}
    assert dict(seen) == {length: filled.get(length, length) for length in LENGTHS}


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
