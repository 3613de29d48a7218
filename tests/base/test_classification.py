import pytest
import torch
from spotesm.base.classification import classify


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "cuda_runtime"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "cuda_runtime"),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED"), "cuda_runtime"),
        (RuntimeError("there is no room in the classroom"), "generic"),
        (RuntimeError("barracuda error"), "generic"),
        (ValueError("out of memory, says a user's file"), "generic"),
    ],
)
def test_the_type_comes_before_the_text(error: Exception, expected: str) -> None:
    assert classify(error) == expected
