"""The outputs: one row each of a table, and the keys under which files hold them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spotesm.weights.architectures import Architecture

VALUES = "values"  # the second half of the key of an output that has no layers
OFFSETS = "offsets"  # beside the keys of a ragged output: where each record's values begin
Windows = Sequence[np.ndarray]


def add(_: Sequence[int], windows: Windows) -> np.ndarray:
    """Sum what the windows say: of means, which are sums of shares already."""
    return np.sum(windows, axis=0)


def average(_: Sequence[int], windows: Windows) -> np.ndarray:
    """Average what the windows say."""
    return np.mean(windows, axis=0)


def average_residues(starts: Sequence[int], windows: Windows) -> np.ndarray:
    """Average, for each residue, over the windows that cover it; they begin at `starts`."""
    total = np.zeros((starts[-1] + len(windows[-1]), windows[0].shape[1]), np.float32)
    coverage = np.zeros((len(total), 1), np.float32)
    for start, values in zip(starts, windows, strict=True):
        total[start : start + len(values)] += values
        coverage[start : start + len(values)] += 1
    total /= coverage
    return total


def concatenate(_: Sequence[int], windows: Windows) -> np.ndarray:
    """Keep what each window says, one after another."""
    return np.concatenate(windows)


def one(_: int) -> int:
    """One row, whatever the residues."""
    return 1


def every(residues: int) -> int:
    """One row a residue."""
    return residues


def pairs(residues: int) -> int:
    """One value a pair of residues."""
    return residues * residues


def dimensions(architecture: Architecture) -> int:
    """As many numbers in a row as the model has dimensions."""
    return architecture.embedding_dim


def vocabulary(architecture: Architecture) -> int:
    """As many as there are rows in the model's vocabulary."""
    return architecture.traits.vocabulary


def single(_: Architecture) -> int:
    """One number in a row."""
    return 1


@dataclass(frozen=True)
class Output:
    """What of an output differs from others.

    Attributes:
        name: as the config and the files call it.
        fair_esm: as fair-esm's extract.py calls it.
        per_layer: whether each layer has its own; its keys are `NAME/LAYER`, else `NAME/values`.
        rows: how many rows a window (or a whole sequence) of so many residues has.
        width: how many numbers a row of a model has.
        join: makes one array of a sequence out of those of its windows and their starts.
    """

    name: str
    fair_esm: str
    per_layer: bool
    rows: Callable[[int], int]
    width: Callable[[Architecture], int]
    join: Callable[[Sequence[int], Windows], np.ndarray]

    @property
    def ragged(self) -> bool:
        """Whether the number of rows depends on the sequence; others have one row a record."""
        return self.rows is not one

    def shape(self, rows: int, architecture: Architecture) -> tuple[int, ...]:
        """Return the shape of so many rows in a file, of a model."""
        width = self.width(architecture)
        return (rows, width) if width > 1 else (rows,)

    def keys(self, layers: Sequence[int]) -> list[str]:
        """Return its keys, given the layers asked for."""
        return [f"{self.name}/{layer}" for layer in layers] if self.per_layer else [self.key()]

    def key(self, layer: int | None = None) -> str:
        """Return one of its keys."""
        return f"{self.name}/{VALUES if layer is None else layer}"


MEAN, BOS, RESIDUES, LOGITS, CONTACTS = "mean", "bos", "residues", "logits", "contacts"
OUTPUTS = {
    output.name: output
    for output in (
        Output(MEAN, "mean_representations", True, one, dimensions, add),
        Output(BOS, "bos_representations", True, one, dimensions, average),
        Output(RESIDUES, "representations", True, every, dimensions, average_residues),
        Output(LOGITS, "logits", False, every, vocabulary, average_residues),
        Output(CONTACTS, "contacts", False, pairs, single, concatenate),
    )
}


@dataclass(frozen=True)
class Key:
    """A key, taken apart: the path of a dataset in our files, such as `mean/6`.

    Attributes:
        output: a row of `OUTPUTS`.
        layer: None where the output has none.
    """

    output: Output
    layer: int | None

    @classmethod
    def parse(cls, key: str) -> "Key | None":
        """Take a key apart; None if it is none."""
        name, _, rest = key.partition("/")
        output = OUTPUTS.get(name)
        if output is None or not (rest.isdecimal() if output.per_layer else rest == VALUES):
            return None
        return cls(output, int(rest) if output.per_layer else None)


def output_of(key: str) -> Output:
    """Return the output that a key is of."""
    parsed = Key.parse(key)
    assert parsed is not None, key
    return parsed.output


def unit_of(key: str) -> str:
    """Return the unit that a key belongs to, see `Outputs.units`."""
    output = output_of(key)
    return output.name if output.ragged else key


def offsets_of(output: Output) -> str:
    """Return where a merged file has the offsets of a ragged output."""
    return f"{output.name}/{OFFSETS}"


@dataclass(frozen=True)
class Outputs:
    """What is computed in one pass over the model.

    Attributes:
        names: of `OUTPUTS`.
        layers: as fair-esm and transformers count them: 0 is the embedding, n the n-th layer, and
            the last one comes after the final norm.
        store_dtype: `float32` or `float16`, what values are stored in.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    store_dtype: str = "float32"

    @property
    def keys(self) -> list[str]:
        """All keys: outputs in the order asked for, ragged ones in that of the table."""
        return self.row_keys + self.ragged_keys

    @property
    def row_keys(self) -> list[str]:
        """Keys of what has one row a sequence, in the order asked for."""
        asked = [OUTPUTS[name] for name in self.names]
        return [key for output in asked if not output.ragged for key in output.keys(self.layers)]

    @property
    def ragged_keys(self) -> list[str]:
        """Keys of what has a number of rows that depends on the sequence."""
        asked = [output for name, output in OUTPUTS.items() if name in self.names]
        return [key for output in asked if output.ragged for key in output.keys(self.layers)]

    @property
    def units(self) -> list[str]:
        """What a sequence has wholly or not at all: each key of rows, each ragged output.

        The layers of a ragged output lie in the same places, so they are written together.
        """
        ragged = dict.fromkeys(output_of(key).name for key in self.ragged_keys)
        return [*self.row_keys, *ragged]

    def keys_of(self, units: Collection[str]) -> list[str]:
        """Return the keys that some of the units stand for."""
        return [key for key in self.keys if unit_of(key) in units]

    def narrow(self, units: Collection[str]) -> "Outputs":
        """Return the least that is computed to have some of the units."""
        keys = [Key.parse(key) for key in self.keys_of(units)]
        names = {key.output.name for key in keys}
        layers = {key.layer for key in keys}
        return replace(
            self,
            names=tuple(name for name in self.names if name in names),
            layers=tuple(layer for layer in self.layers if layer in layers) or self.layers[:1],
        )

    def depth(self, n_layers: int) -> int:
        """Return how many of a model's layers have to run: outputs without layers need all."""
        if any(not OUTPUTS[name].per_layer for name in self.names):
            return n_layers
        return max(self.layers)

    @property
    def dtype(self) -> np.dtype:
        """`store_dtype` as numpy calls it."""
        return np.dtype(self.store_dtype)

    def __contains__(self, name: str) -> bool:
        return name in self.names
