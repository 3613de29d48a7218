"""Which outputs a run computes for each sequence, and what they are called in files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MEAN, BOS, RESIDUES, LOGITS, CONTACTS = "mean", "bos", "residues", "logits", "contacts"
OUTPUTS = (MEAN, BOS, RESIDUES, LOGITS, CONTACTS)
LOGITS_KEY, CONTACTS_KEY = f"{LOGITS}/values", f"{CONTACTS}/values"


@dataclass(frozen=True)
class Outputs:
    """What is computed in one pass over the model.

    Every output has one or several keys, `GROUP/NAME`, which are the paths of its datasets:
    `mean/LAYER`, `bos/LAYER` and `residues/LAYER` for each layer, `logits/values` and
    `contacts/values`.

    Attributes:
        names: of `mean`, `bos`, `residues`, `logits` and `contacts`.
        layers: as fair-esm counts them: 0 is the embedding, n the n-th layer, and the last one
            comes after the final norm.
        store_dtype: `float32` or `float16`, what values are stored in.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    store_dtype: str = "float32"

    @classmethod
    def of_model(
        cls, names: Sequence[str], layers: Sequence[int], store_dtype: str, n_layers: int
    ) -> "Outputs":
        """Resolve layers that are counted from the end; -1 is the last. Each is taken once."""
        resolved = (layer % (n_layers + 1) for layer in layers)
        return cls(tuple(names), tuple(dict.fromkeys(resolved)), store_dtype)

    @property
    def row_keys(self) -> list[str]:
        """Keys of what has one row a sequence, in the order asked for."""
        return [
            f"{name}/{layer}" for name in self.names if name in (MEAN, BOS) for layer in self.layers
        ]

    @property
    def ragged_keys(self) -> list[str]:
        """Keys of what has a number of rows that depends on the sequence."""
        keys = [f"{RESIDUES}/{layer}" for layer in self.layers if RESIDUES in self.names]
        return keys + [
            key
            for name, key in ((LOGITS, LOGITS_KEY), (CONTACTS, CONTACTS_KEY))
            if name in self.names
        ]

    @property
    def dtype(self) -> np.dtype:
        """`store_dtype` as numpy calls it."""
        return np.dtype(self.store_dtype)

    def __contains__(self, name: str) -> bool:
        return name in self.names


def group_of(key: str) -> str:
    """Return the output that a key belongs to; `offsets` lie in this group, too."""
    return key.partition("/")[0]
