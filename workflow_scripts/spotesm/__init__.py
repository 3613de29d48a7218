"""spotESM: ESM-2 protein embeddings on GPUs that may be taken away at any moment."""

__version__ = "0.1.0"
