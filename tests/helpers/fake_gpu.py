"""A GPU for what is logic, not arithmetic: the model computes on the CPU and says it is on CUDA.

Events and copies to the host are stubs that note their order; values reach the host only when an
event is waited for.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from spotesm.model import encoder
from spotesm.model.packed import Activations, PackedModel
from spotesm.request.outputs import Outputs

Hook = Callable[[torch.Tensor], None]


class FakeGPU:
    """Notes what is asked of it; copies are done when an event that came after them is waited for.

    Attributes:
        order: what happened, such as `launch 1` and `wait 1`, numbered as they were launched.
        before: by number of a launch, what to do instead of computing, or before it.
        room: most tokens that fit.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.before: dict[int, Hook] = {}
        self.room = 1 << 30
        self.launches = 0
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def to_host(self, values: torch.Tensor) -> torch.Tensor:
        unknown = 1 if values.dtype == torch.bool else torch.nan
        host = torch.full_like(values, unknown)
        self.pending.append((host, values))
        return host

    def event(self, blocking: bool) -> "FakeEvent":
        assert blocking  # else waiting takes a core
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.copies, self.gpu.pending = self.gpu.pending, []
        self.number = self.gpu.launches

    def synchronize(self) -> None:
        self.gpu.order.append(f"wait {self.number}")
        with torch.inference_mode():
            for host, values in self.copies:
                host.copy_(values)


class OnGPU:
    """A model that says it is on a GPU."""

    device = torch.device("cuda", 0)

    def __init__(self, model: PackedModel, gpu: FakeGPU) -> None:
        self.model, self.gpu = model, gpu

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def __call__(
        self, tokens: torch.Tensor, lengths: Sequence[int], outputs: Outputs, check: Callable
    ) -> Activations:
        self.gpu.launches += 1
        number = self.gpu.launches
        self.gpu.order.append(f"launch {number}")
        if number in self.gpu.before:
            self.gpu.before[number](tokens)
        if len(tokens) > self.gpu.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(tokens, lengths, outputs, check)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    """Put one in place of the real one, as long as a test runs."""
    gpu = FakeGPU()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gpu.order.append("empty"))
    monkeypatch.setattr(encoder, "to_host", gpu.to_host)
    monkeypatch.setattr(encoder, "to_device", lambda x, _: torch.as_tensor(x))
    return gpu
