"""spotESM: ESM-2 and ESM C protein embeddings on GPUs that may be taken away at any moment."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spotesm.merged.reader import Embeddings

__all__ = ["Embeddings", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Not imported above: Snakemake's own process and the merge need no reader.
    if name == "Embeddings":
        from spotesm.merged.reader import Embeddings

        return Embeddings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
