"""Attention strictly within each of the sequences that are packed along the token axis.

Four ways, one result: `BlockAttention` where a dense kernel per block is best (CPU), and
`FilledAttention` there in bfloat16; `VarlenAttention` for the flash kernel of recent GPUs,
`PaddedAttention` for all other GPUs and for float32. Queries, keys and values are
(T, heads, head_dim) each.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spotesm.model.transfers import to_device

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

# What sequences of one padded block may differ in length: at most an eighth is padding.
PADDED_BLOCK_SHORTEST = 7 / 8
# PyTorch's kernel for CPUs takes keys by vectors of 16. In bfloat16 and up to some length, what is
# left over costs more than to fill the last vector up, unless that is nearly empty
# (benchmarks/RESULTS.md).
KEYS_AT_ONCE = 16
LEAST_LEFT_OVER = 5
LONGEST_FILLED = 511


class BlockAttention:
    """Dense attention over each run of neighbouring sequences of equal length; no padding."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.runs: list[tuple[slice, tuple[int, int]]] = []
        first = 0
        for length, group in groupby(lengths):
            count = len(list(group))
            self.runs.append((slice(first, first + count * length), (count, length)))
            first += count * length

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what every token gathers from its own sequence, (T, heads, head_dim)."""
        out = torch.empty_like(value)
        for tokens, shape in self.runs:
            q, k, v, o = (
                x[tokens].unflatten(0, shape).transpose(1, 2) for x in (query, key, value, out)
            )
            o.copy_(self.attend(q, k, v))
        return out

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the same of sequences of one length, (n, heads, length, head_dim) each."""
        return F.scaled_dot_product_attention(query, key, value)


class FilledAttention(BlockAttention):
    """The same, with masked keys to fill up the last vector where the kernel is slow without."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the same of sequences of one length, (n, heads, length, head_dim) each."""
        length = key.shape[2]
        left_over = length % KEYS_AT_ONCE
        if left_over < LEAST_LEFT_OVER or length > LONGEST_FILLED:
            return super().attend(query, key, value)
        missing = KEYS_AT_ONCE - left_over
        key, value = (F.pad(x, (0, 0, 0, missing)) for x in (key, value))
        mask = F.pad(torch.zeros(1, length), (0, missing), value=-torch.inf)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class VarlenAttention:
    """Flash attention over sequences of any lengths at once; half precision, CUDA only."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.edges = to_device(np.array([0, *accumulate(lengths)], np.int32), device)
        self.longest = max(lengths)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what every token gathers from its own sequence, (T, heads, head_dim)."""
        # Imported with torch's compiler, which takes a second that a job on the CPU need not spend.
        from torch.nn.attention.varlen import varlen_attn

        longest = self.longest
        return varlen_attn(query, key, value, self.edges, self.edges, longest, longest)


class PaddedAttention:
    """Dense attention over blocks of similar lengths; only inside of it, tokens are padded."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        starts = torch.tensor([0, *accumulate(lengths)])
        self.blocks = []
        for block in _similar_lengths(lengths):
            sizes = torch.tensor([lengths[i] for i in block]).unsqueeze(1)
            places = torch.arange(int(sizes.max()))
            valid = places < sizes
            tokens = starts[block].unsqueeze(1) + places.minimum(sizes - 1)
            # All indices are made here, so that no layer waits for the device to count them.
            indices = (tokens, valid[:, None, None], valid.flatten().nonzero()[:, 0], tokens[valid])
            self.blocks.append([to_device(x, device) for x in indices])

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what every token gathers from its own sequence, (T, heads, head_dim)."""
        out = torch.empty_like(value)
        for tokens, valid, padded_rows, rows in self.blocks:
            q, k, v = (x[tokens].transpose(1, 2) for x in (query, key, value))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
            out[rows] = attended.transpose(1, 2).flatten(0, 1)[padded_rows]
        return out


def _similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Group neighbours so that the shortest of a group is not much shorter than the longest."""
    blocks: list[list[int]] = []
    shortest = longest = 0
    for index, length in enumerate(lengths):
        shortest, longest = min(shortest, length), max(longest, length)
        if shortest < PADDED_BLOCK_SHORTEST * longest:
            blocks.append([])
            shortest = longest = length
        blocks[-1].append(index)
    return blocks


def choose_attention(
    device: torch.device, dtype: torch.dtype
) -> type[BlockAttention] | type[VarlenAttention] | type[PaddedAttention]:
    """Return the fastest way that the device has in this precision."""
    if device.type != "cuda":
        return FilledAttention if dtype == torch.bfloat16 else BlockAttention
    # Flash attention needs tensor cores of Ampere or later, and half precision.
    flash = torch.cuda.get_device_capability(device) >= (8, 0) and dtype.itemsize == 2
    return VarlenAttention if flash else PaddedAttention
