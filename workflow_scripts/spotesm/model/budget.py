"""How many tokens go through the model at once: found from the model and the device."""

import logging
from collections.abc import Sequence

import numpy as np
import psutil
import torch

from spotesm.model.encoder import Batch, Encoder
from spotesm.model.packed import PackedModel
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.sequences.long_sequences import SPECIAL_TOKENS, LongSequences

log = logging.getLogger(__name__)

# On a CPU, larger matrices are hardly faster than these, and a batch should last a few seconds even
# on two cores. Not timed, so that the same model gives the same batches.
CPU_LEAST, CPU_MOST = 1024, 4096
CPU_OPERATIONS_PER_BATCH = {4: 0.7e12, 2: 1.4e12}  # by bytes of a number

# On a GPU, the matrix units are busy from some ten thousand tokens on, or from fewer of a larger
# model: these operations take a second even on a slow one. Less than `GPU_BUSY` starves them.
GPU_LEAST, GPU_BUSY, GPU_MOST = 1024, 1 << 13, 1 << 16
GPU_OPERATIONS_PER_BATCH = 50e12
GPU_PROBE_SEQUENCES = 4
SHARE_OF_FREE_MEMORY = 0.7
# What the host holds of the outputs: two batches in flight, and one that is put together.
COPIES_ON_HOST = 3


def choose_token_budget(model: PackedModel, outputs: Outputs, window: int) -> int:
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


def _estimate_cpu(model: PackedModel) -> int:
    tokens = CPU_OPERATIONS_PER_BATCH[model.dtype.itemsize] / _operations_per_token(model)
    return _power_of_two(tokens, CPU_LEAST, CPU_MOST)


def _operations_per_token(model: PackedModel) -> int:
    """Return the floating-point operations of the linear layers."""
    return 24 * model.n_layers * model.embedding_dim**2


def _measure_gpu(model: PackedModel, outputs: Outputs, window: int) -> int:
    """Embed a small batch of the longest sequences, and see what memory a token takes.

    It goes the way of all batches: with the outputs asked for, and their way to the host.
    """
    whole = LongSequences("whole", window, 0, "reject")
    encoder = Encoder(lambda _: model, model.dtype, outputs, whole)
    batch = Batch.of([b"A" * window] * GPU_PROBE_SEQUENCES)
    tokens = GPU_PROBE_SEQUENCES * (window + SPECIAL_TOKENS)
    list(encoder.embed_each([batch], tokens))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    (results,) = encoder.embed_each([batch], tokens)
    taken = torch.cuda.max_memory_allocated(model.device) - before
    free, _ = torch.cuda.mem_get_info(model.device)
    # Values are rounded to what they are stored in only when they are put together.
    taken_on_host = COPIES_ON_HOST * results.nbytes * 4 / outputs.dtype.itemsize
    free_on_host = psutil.virtual_memory().available
    fit = SHARE_OF_FREE_MEMORY * tokens * min(free / taken, free_on_host / taken_on_host)
    busy = max(GPU_OPERATIONS_PER_BATCH / _operations_per_token(model), GPU_BUSY)
    return _power_of_two(min(fit, busy), GPU_LEAST, GPU_MOST)


def _power_of_two(value: float, least: int, most: int) -> int:
    """Return the largest power of two up to `value`, within bounds."""
    return min(max(1 << max(0, int(value).bit_length() - 1), least), most)
