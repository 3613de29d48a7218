"""Models of fair-esm, and our engines made from them."""

from pathlib import Path

import torch
from esm.model.esm2 import ESM2
from spotesm.model.packed import PackedESM2
from spotesm.model.reference import FairESM, ReferenceEngine, fair_esm_model
from spotesm.weights.architectures import FREQUENCIES, Architecture
from spotesm.weights.sources import open_source
from spotesm.weights.tensors import Source

CPU = torch.device("cpu")


def source_of(model: ESM2) -> Source:
    """The tensors of a loaded model, as a source; they stay the model's own."""
    architecture = Architecture(model.num_layers, model.embed_dim, model.attention_heads)
    tensors = {
        FREQUENCIES if name.endswith(FREQUENCIES) else name: lambda x=tensor: x
        for name, tensor in model.state_dict().items()
    }
    return Source("a model in memory", architecture, tensors, (), model.token_dropout)


def packed(model: ESM2, dtype: torch.dtype, device: torch.device = CPU) -> PackedESM2:
    return PackedESM2.of_source(source_of(model), device, dtype)


def reference(model: ESM2, dtype: torch.dtype) -> ReferenceEngine:
    return ReferenceEngine.of_source(source_of(model), CPU, dtype)


def load_model(path: Path, architecture: Architecture) -> FairESM:
    """fair-esm's model over the tensors of a file."""
    return fair_esm_model(open_source(path, architecture))
