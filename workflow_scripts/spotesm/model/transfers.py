"""Between the host and a device: copies that nobody waits for until their results are needed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Return values of the host on the device; the host goes on while they are copied."""
    tensor = torch.as_tensor(values)
    # Memory that may be paged out would make the host wait, and so the device later on.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_host(values: Tensor) -> Tensor:
    """Start to copy values to the host; `arrival` says when they are there."""
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def arrival(device: torch.device) -> Callable[[], None]:
    """Return what waits until everything asked of the device so far is done."""
    if device.type != "cuda":
        return lambda: None
    # Blocking: the host sleeps instead of asking again and again, which takes a core.
    event = torch.cuda.Event(blocking=True)
    event.record()
    return event.synchronize
