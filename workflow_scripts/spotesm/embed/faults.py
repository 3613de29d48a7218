"""Faults on demand, for the tests: without SPOTESM_FAULTS in the environment, nothing happens.

SPOTESM_FAULTS is a comma-separated list of
    KIND@N        at the N-th forward pass, or for disk_full the N-th durable write, of a process
    KIND=MOTIF    at every forward pass in which a sequence contains MOTIF
    trace=FILE    append a byte to FILE for every sequence (or window) that goes through the model
    brake=FILE    spend as many seconds longer on every forward pass as FILE says, while it is there
    room=BYTES    from the first forward pass on, take only so much more memory
with the kinds out_of_memory, cuda_error, generic_error, not_finite, not_finite_in_half (precision),
disk_full, and the signals killed (SIGKILL) and stopped (SIGTERM) to the process itself.
"""

import errno
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from spotesm.model.packed import Activations, PackedModel
from spotesm.sequences.alphabet import tokenise

_ERRORS: dict[str, Callable[[], Exception]] = {
    "out_of_memory": lambda: torch.OutOfMemoryError("CUDA out of memory (on demand)"),
    "cuda_error": lambda: torch.AcceleratorError("CUDA error: device-side assert (on demand)"),
    "generic_error": lambda: RuntimeError("no room for this error (on demand)"),
}

_SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGTERM}


def install(specification: str) -> None:
    """Make this process fail as `specification` says."""
    for fault in filter(None, specification.split(",")):
        if fault.startswith("disk_full@"):
            _fail_at_write(int(fault.partition("@")[2]))
        elif fault.startswith("trace="):
            _trace(fault.partition("=")[2])
        elif fault.startswith("brake="):
            _slow_down(Path(fault.partition("=")[2]))
        elif fault.startswith("room="):
            _limit_memory(int(fault.partition("=")[2]))
        else:
            kind, condition = fault.partition("@")[::2] if "@" in fault else fault.split("=")
            _fail_at_pass(kind, _nth(int(condition)) if "@" in fault else _contains(condition))


def _nth(n: int) -> Callable[[Tensor], Tensor]:
    """Return a test of tokens (T,) for being those of the n-th pass; marks (T,) bool."""
    calls = itertools.count(1)
    return lambda tokens: torch.full(tokens.shape, next(calls) == n)


def _contains(motif: str) -> Callable[[Tensor], Tensor]:
    """Return a test of tokens (T,) for a motif; marks, (T,) bool, where it begins."""
    wanted = torch.from_numpy(tokenise(motif.encode())[1:-1]).int()

    def find(tokens: Tensor) -> Tensor:
        found = torch.zeros(tokens.shape, dtype=torch.bool)
        if len(tokens) >= len(wanted):
            matches = tokens.cpu().int().unfold(0, len(wanted), 1) == wanted
            found[: len(matches)] = matches.all(1)
        return found

    return find


def _fail_at_pass(kind: str, find: Callable[[Tensor], Tensor]) -> None:
    forward = PackedModel.forward

    def failing(self: PackedModel, tokens: Tensor, *arguments: object) -> Activations:
        found = find(tokens)
        if kind in _ERRORS and found.any():
            raise _ERRORS[kind]()
        if kind in _SIGNALS and found.any():
            os.kill(os.getpid(), _SIGNALS[kind])
        activations = forward(self, tokens, *arguments)
        if kind == "not_finite" or (kind == "not_finite_in_half" and self.dtype.itemsize == 2):
            for hidden in activations.hidden.values():
                hidden[found.to(hidden.device)] = torch.nan
        return activations

    PackedModel.forward = failing


def _fail_at_write(n: int) -> None:
    replace, calls = os.replace, itertools.count(1)

    def failing(source: object, destination: object) -> None:
        if next(calls) == n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))
        replace(source, destination)

    os.replace = failing


def _slow_down(brake: Path) -> None:
    forward = PackedModel.forward

    def slow(self: PackedModel, *arguments: object) -> Activations:
        with suppress(FileNotFoundError):
            end = time.monotonic() + float(brake.read_text(encoding="utf-8"))
            while brake.exists() and time.monotonic() < end:
                time.sleep(0.01)
        return forward(self, *arguments)

    PackedModel.forward = slow


def _limit_memory(room: int) -> None:
    forward, limited = PackedModel.forward, False

    def crowded(self: PackedModel, *arguments: object) -> Activations:
        nonlocal limited
        if not limited:
            limited = True
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            taken = 1024 * int(status.partition("VmData:")[2].split()[0])
            resource.setrlimit(resource.RLIMIT_DATA, (taken + room, taken + room))
        return forward(self, *arguments)

    PackedModel.forward = crowded


def _trace(path: str) -> None:
    forward = PackedModel.forward

    def traced(
        self: PackedModel, tokens: Tensor, lengths: list[int], *others: object
    ) -> Activations:
        activations = forward(self, tokens, lengths, *others)
        with open(path, "ab") as file:
            file.write(b"." * len(lengths))
        return activations

    PackedModel.forward = traced
