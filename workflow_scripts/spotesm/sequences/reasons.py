"""Why a record gets no row."""

from dataclasses import dataclass

from spotesm.base.failures import CUDA_RUNTIME, NOT_FINITE, OUT_OF_MEMORY

EMPTY = "empty"
INVALID_CHARACTER = "invalid_character"
NOT_A_SEQUENCE = "not_a_sequence"
TOO_LONG = "too_long"
KEYWORDS = (
    EMPTY,
    INVALID_CHARACTER,
    NOT_A_SEQUENCE,
    TOO_LONG,
    OUT_OF_MEMORY,
    NOT_FINITE,
    CUDA_RUNTIME,
)
OF_DEVICE = (OUT_OF_MEMORY, NOT_FINITE, CUDA_RUNTIME)  # on another one it may go well


@dataclass(frozen=True)
class Device:
    """What something was computed on, as far as it can decide whether that succeeds.

    Attributes:
        name: such as `NVIDIA H200`, or `CPU`.
        memory: bytes it has; 0 if unknown.
        precision: what it computed in.
    """

    name: str
    memory: int
    precision: str

    def __str__(self) -> str:
        memory = f"{self.memory >> 20:,} MiB, " if self.memory else ""
        return f"{self.name}, {memory}{self.precision}"


@dataclass(frozen=True)
class Reason:
    """Why a record is rejected.

    Attributes:
        keyword: one of `KEYWORDS`.
        detail: a phrase.
        device: on which it failed, if the keyword is one of `OF_DEVICE`; None if unknown.

    Raises:
        ValueError: there is no such keyword.
    """

    keyword: str
    detail: str
    device: Device | None = None

    def __post_init__(self) -> None:
        if self.keyword not in KEYWORDS:
            raise ValueError(f"{self.keyword!r} is no reason")

    def __str__(self) -> str:
        return f"{self.keyword}: {self.detail}"

    def on(self, device: Device) -> "Reason":
        """Return it with the device it belongs to, if it belongs to one."""
        if self.keyword not in OF_DEVICE or self.device:
            return self
        return Reason(self.keyword, f"{self.detail} ({device})", device)

    def holds_on(self, device: Device) -> bool:
        """Whether there is no use in another try on a device."""
        return self.keyword not in OF_DEVICE or self.device == device
