"""What is asked for, once: from the config to the fingerprint and the attributes of files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from spotesm.request.outputs import CONTACTS, Output, Outputs
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.architectures import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class Request:
    """What determines the numbers, beside the weights themselves.

    A setting that changes the numbers is a field here and a key of the config's schema; everything
    else follows.
    """

    model: str
    """Name of the architecture, a key of `ARCHITECTURES`."""

    engine: str
    """`packed`, or fair-esm's own forward, the `reference`."""

    outputs: tuple[str, ...]
    """What is computed: names of `OUTPUTS`."""

    layers: tuple[int, ...]
    """Of which layers; negative ones are counted from the end, until they are resolved."""

    store_dtype: str
    """`float32` or `float16`, of the values in the file."""

    precision: str
    """`float32`, `bfloat16`, `float16`, or, until it is resolved, `auto`."""

    long_sequences: LongSequences
    """What happens to sequences that are longer than the window."""

    @classmethod
    def of_config(cls, config: Mapping) -> "Request":
        """Take it from a checked config."""
        model = {"model": config["model"]["name"], "engine": config["model"]["engine"]}
        others = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        return cls.of_param({**others, **model})

    @classmethod
    def of_param(cls, param: Mapping) -> "Request":
        """Take it from what `as_param` gave, or from the JSON of that."""
        return cls(
            **{
                **param,
                "outputs": tuple(param["outputs"]),
                "layers": tuple(param["layers"]),
                "long_sequences": LongSequences(**param["long_sequences"]),
            }
        )

    @classmethod
    def of_attributes(cls, attributes: Mapping) -> "Request":
        """Take it from the attributes of a shard's or a merged file."""
        known = {
            field.name: attributes[field.name] for field in fields(cls) if field.name in attributes
        }
        plain = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in known.items()}
        return cls.of_param({**plain, "long_sequences": json.loads(plain["long_sequences"])})

    def as_param(self) -> dict:
        """Return plain values, which Snakemake can compare and JSON can hold."""
        plain = asdict(self)
        return {**plain, "outputs": list(self.outputs), "layers": list(self.layers)}

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return ARCHITECTURES[self.model]

    def resolve(self, precision: str) -> "Request":
        """Return it for a device's precision, with layers counted from 0 and taken once each."""
        n_layers = self.architecture.layers
        layers = dict.fromkeys(layer % (n_layers + 1) for layer in self.layers)
        return replace(self, layers=tuple(layers), precision=precision)

    def select(self) -> Outputs:
        """Return what goes through the model, once layers are resolved."""
        return Outputs(self.outputs, self.layers, self.store_dtype)

    def count_rows(self, output: Output, lengths: np.ndarray) -> np.ndarray | int:
        """Return how many rows of an output sequences of `lengths` (u,) have, (u,) or one for all.

        In windows of the usual size: what windows share is averaged, but for contacts, which stay
        one map a window.
        """
        long = self.long_sequences
        if output.name == CONTACTS:
            return long.count_windows(lengths) * output.rows(long.longest_window(lengths))
        return output.rows(long.count_seen(lengths))

    def fingerprint(self, weights_sha256: str) -> dict:
        """Return all that determines the numbers, plain."""
        return {**self.as_param(), "weights_sha256": weights_sha256}
