"""Which type of failure an exception of torch is."""

import re

import torch

from spotesm.base.failures import CUDA_RUNTIME, GENERIC, OUT_OF_MEMORY

# What torch says where it has no exception type of its own: of the host's memory, and of CUDA's
# libraries. Checked in this order.
_OUT_OF_MEMORY_TEXT = re.compile(
    r"\bout of memory\b|can't allocate memory|Cannot allocate memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc"
)
_CUDA_TEXT = re.compile(
    r"\bCUDA (driver )?error\b|\b(CUBLAS|CUDNN|CUSOLVER)_STATUS_|device-side assert"
)


def classify(error: BaseException) -> str:
    """Return the type of a failure: from the exception's type, from text where torch has none."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and _OUT_OF_MEMORY_TEXT.search(text):
        return OUT_OF_MEMORY
    if isinstance(error, torch.AcceleratorError):
        return CUDA_RUNTIME
    if isinstance(error, RuntimeError) and _CUDA_TEXT.search(text):
        return CUDA_RUNTIME
    return GENERIC
