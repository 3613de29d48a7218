"""The engines: what runs a model."""

from spotesm.model.packed import PackedESM2
from spotesm.model.reference import ReferenceEngine

Engine = PackedESM2 | ReferenceEngine
ENGINES: dict[str, type[Engine]] = {"packed": PackedESM2, "reference": ReferenceEngine}
