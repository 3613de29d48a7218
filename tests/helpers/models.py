"""Models of fair-esm and of transformers, and our engines made from them."""

import argparse
from pathlib import Path
from typing import Any

import esm
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from spotesm.model.packed import PackedModel
from spotesm.model.reference import FairESM, ReferenceEngine, fair_esm_model
from spotesm.weights.architectures import ESM1_POSITIONS, FREQUENCIES, Architecture
from spotesm.weights.files import regression_path
from spotesm.weights.sources import open_source
from spotesm.weights.tensors import Source

CPU = torch.device("cpu")
TINY = Architecture(layers=2, embedding_dim=16, attention_heads=2)
TINY_ESM1 = Architecture(layers=2, embedding_dim=16, attention_heads=2, family="esm1")
TINY_ESMC = Architecture(2, 16, 2, "esmc", has_regression=False)


def source_of(model: ESM2) -> Source:
    """The tensors of a loaded model, as a source; they stay the model's own."""
    architecture = Architecture(model.num_layers, model.embed_dim, model.attention_heads)
    tensors = {
        FREQUENCIES if name.endswith(FREQUENCIES) else name: lambda x=tensor: x
        for name, tensor in model.state_dict().items()
    }
    return Source("a model in memory", architecture, tensors, (), model.token_dropout)


def esmc_config(shape: Architecture, **more: object) -> Any:
    """The config of an ESM C; for those who have transformers."""
    from transformers import EsmcConfig

    sizes = {
        "hidden_size": shape.embedding_dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.attention_heads,
        "intermediate_size": shape.feed_forward_dim,
    }
    return EsmcConfig(**{**sizes, **more})


def make_esmc(shape: Architecture, kind: str = "EsmcForMaskedLM", **more: object) -> Any:
    """An ESM C of transformers with random numbers in every parameter."""
    import transformers

    model = getattr(transformers, kind)(esmc_config(shape, initializer_range=0.05, **more))
    with torch.no_grad():  # norms are made as the identity
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def source_of_esmc(model: Any, shape: Architecture) -> Source:
    """The tensors of a loaded ESM C, as a source; they stay the model's own."""
    tensors = {
        name.removeprefix("esmc.").replace("lm_head.decoder.", "lm_head."): lambda x=tensor: x
        for name, tensor in model.state_dict().items()
    }
    return Source("a model in memory", shape, tensors)


def packed(model: ESM2, dtype: torch.dtype, device: torch.device = CPU) -> PackedModel:
    return PackedModel.of_source(source_of(model), device, dtype)


def reference(model: ESM2, dtype: torch.dtype) -> ReferenceEngine:
    return ReferenceEngine.of_source(source_of(model), CPU, dtype)


def load_model(path: Path, architecture: Architecture) -> FairESM:
    """fair-esm's model over the tensors of a file."""
    return fair_esm_model(open_source(path, architecture))


def write_fair_esm(architecture: Architecture, path: Path, source: Source | None = None) -> None:
    """Write a model and its contact regression, as fair-esm's files are.

    The numbers are those of `source`, or as fair-esm initialises a model.
    """
    layers, dim, heads = (
        architecture.layers,
        architecture.embedding_dim,
        architecture.attention_heads,
    )
    config = argparse.Namespace(
        encoder_layers=layers,
        encoder_embed_dim=dim,
        encoder_attention_heads=heads,
        token_dropout=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        if architecture.family == "esm2":
            model = ESM2(layers, dim, heads)
            content = {"cfg": {"model": config}}
        else:
            config.arch = "roberta_large"
            config.encoder_ffn_embed_dim = 4 * dim
            config.max_positions = ESM1_POSITIONS
            alphabet = esm.Alphabet.from_architecture("ESM-1b")
            model = ProteinBertModel(_esm1_arguments(config), alphabet)
            content = {"args": config}
    if source:
        model.load_state_dict({name: source.get(name) for name in source.names}, strict=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    regression = {name: state.pop(name) for name in list(state) if "contact_head" in name}
    trunk = {
        # fair-esm's files keep the language-model head outside the sentence encoder.
        f"encoder.{name}" if name.startswith("lm_head") else f"encoder.sentence_encoder.{name}": x
        for name, x in state.items()
    }
    if architecture.has_regression:
        torch.save({"model": regression}, regression_path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**content, "model": trunk}, path)


def _esm1_arguments(config: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of fair-esm's `ProteinBertModel`; ESM-1b has a norm in front."""
    renamed = {name.removeprefix("encoder_"): value for name, value in vars(config).items()}
    return argparse.Namespace(**renamed, emb_layer_norm_before=True)
