"""Why a record gets no row."""

from dataclasses import dataclass

from spotesm.base.failures import CUDA_RUNTIME, NOT_FINITE, OUT_OF_MEMORY

EMPTY = "empty"
INVALID_CHARACTER = "invalid_character"
TOO_LONG = "too_long"
KEYWORDS = (EMPTY, INVALID_CHARACTER, TOO_LONG, OUT_OF_MEMORY, NOT_FINITE, CUDA_RUNTIME)


@dataclass(frozen=True)
class Reason:
    """Why a record is rejected.

    Attributes:
        keyword: one of `KEYWORDS`.
        detail: a phrase.
    """

    keyword: str
    detail: str

    def __post_init__(self) -> None:
        assert self.keyword in KEYWORDS, self.keyword

    def __str__(self) -> str:
        return f"{self.keyword}: {self.detail}"
