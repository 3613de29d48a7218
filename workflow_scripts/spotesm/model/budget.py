"""How many tokens go through the model at once: found from the model and the device."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from spotesm.model.packed import PackedESM2
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.sequences.long_sequences import SPECIAL_TOKENS

log = logging.getLogger(__name__)

# On a CPU, larger matrices are hardly faster than these, and a batch should last a few seconds even
# on two cores. Not timed, so that the same model gives the same batches.
CPU_LEAST, CPU_MOST = 1024, 4096
CPU_OPERATIONS_PER_BATCH = {4: 0.7e12, 2: 1.4e12}  # by bytes of a number

# On a GPU, the matrix units are busy from some ten thousand tokens on, or from fewer of a larger
# model: these operations take a second even on a slow one.
GPU_LEAST, GPU_MOST = 1024, 1 << 16
GPU_OPERATIONS_PER_BATCH = 50e12
GPU_PROBE_SEQUENCES = 4
GPU_SHARE_OF_FREE_MEMORY = 0.7


def choose_token_budget(model: PackedESM2, outputs: Outputs, window: int) -> int:
    """Return the tokens of a batch: a power of two, so that small differences change nothing.

    Args:
        window: most residues that go through the model at once.
    """
    if model.device.type == "cuda":
        budget = _measure_gpu(model, outputs, window)
    else:
        budget = _estimate_cpu(model)
    log.info("%d tokens in a batch", budget)
    return budget


def probe_batch(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return tokens (T,) of sequences of any residue, for trying what a batch costs.

    Args:
        lengths: tokens of each, BOS and EOS included; their sum is T.
    """
    sequences = [tokenise(b"A" * (length - SPECIAL_TOKENS)) for length in lengths]
    return torch.from_numpy(np.concatenate(sequences)).to(device, torch.int32)


def _estimate_cpu(model: PackedESM2) -> int:
    tokens = CPU_OPERATIONS_PER_BATCH[model.dtype.itemsize] / _operations_per_token(model)
    return _power_of_two(tokens, CPU_LEAST, CPU_MOST)


def _operations_per_token(model: PackedESM2) -> int:
    """Return the floating-point operations of the linear layers."""
    return 24 * model.n_layers * model.embedding_dim**2


@torch.inference_mode()
def _measure_gpu(model: PackedESM2, outputs: Outputs, window: int) -> int:
    """Run a small batch of the longest sequences, and see what memory a token takes."""
    device = model.device
    lengths = [window + SPECIAL_TOKENS] * GPU_PROBE_SEQUENCES
    tokens = probe_batch(lengths, device)
    model(tokens, lengths, outputs)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    model(tokens, lengths, outputs)
    per_token = (torch.cuda.max_memory_allocated(device) - before) / len(tokens)
    free, _ = torch.cuda.mem_get_info(device)
    tokens = min(
        GPU_SHARE_OF_FREE_MEMORY * free / per_token,
        GPU_OPERATIONS_PER_BATCH / _operations_per_token(model),
    )
    return _power_of_two(tokens, GPU_LEAST, GPU_MOST)


def _power_of_two(value: float, least: int, most: int) -> int:
    """Return the largest power of two up to `value`, within bounds."""
    return min(max(1 << max(0, int(value).bit_length() - 1), least), most)
