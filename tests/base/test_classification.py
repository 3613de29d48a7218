import errno

import pytest
import torch
from spotesm.base.classification import classify
from spotesm.base.failures import explain_host_fault


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


def test_disk_faults_are_told_in_one_line() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "x/part.pt")
    assert explain_host_fault(full).startswith("x/part.pt: the disk is full")
    hdf5 = OSError("Can't write data (file write failed: errno = 28, error message = 'No space')")
    assert explain_host_fault(hdf5).startswith("the disk is full")
    assert explain_host_fault(OSError("Unable to open file (bad signature)")) is None
    closing = RuntimeError("Can't decrement id (file write failed: filename = 'x.h5', errno = 122)")
    assert explain_host_fault(closing).startswith("x.h5: your quota is used up")
    assert explain_host_fault(RuntimeError("no room")) is None
