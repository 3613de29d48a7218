"""Models of transformers in a cache of the hub, as a download leaves them."""

from pathlib import Path
from typing import Any

from spotesm.weights.architectures import Architecture


def esm_config(shape: Architecture) -> Any:
    """The config of an ESM-2, as published; for those who have transformers."""
    from transformers import EsmConfig

    return EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=shape.embedding_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        intermediate_size=4 * shape.embedding_dim,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
    )


def add_repository(cache: Path, name: str, commit: str) -> Path:
    """A repository OWNER/NAME, whose main is at a commit; the folder of that, to be filled."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    return repository / "snapshots" / commit
