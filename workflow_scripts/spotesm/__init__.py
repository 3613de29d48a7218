"""spotESM: ESM-2 protein embeddings on GPUs that may be taken away at any moment."""

__version__ = "0.1.0"

# Instead of a path, as where weights come from; here, so that the merge need not load torch.
UNTRAINED, PRETRAINED = "untrained", "pretrained"
