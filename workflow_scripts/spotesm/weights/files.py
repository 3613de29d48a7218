"""Model files: ESM-2, ESM-1b and ESM-1v as fair-esm's own models, whatever format they lie in.

fair-esm's format is read by fair-esm's own loader: `{"cfg": {"model": Namespace}, "model": state
dict}`, or `{"args": Namespace, ...}` for ESM-1, with `NAME-contact-regression.pt` beside `NAME.pt`.
Hugging Face's `model.safetensors` of an ESM-2 is renamed first.
"""

import argparse
from pathlib import Path

import esm.pretrained
import safetensors.torch
import torch
from esm.model.esm1 import ProteinBertModel
from esm.model.esm2 import ESM2
from safetensors import SafetensorError

from spotesm.base.durable import replacing
from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import Architecture

FairESM = ESM2 | ProteinBertModel

ESM1_POSITIONS = 1024  # learned, BOS and EOS included
SAFETENSORS = ".safetensors"
UNTRAINED_SEED = 2  # any fixed number: the same weights, and so the same sha256, everywhere


def make_untrained(architecture: Architecture, path: Path) -> None:
    """Write a model of seeded random numbers, and its contact regression, as fair-esm would.

    The same architecture gives the same bytes, and so the same sha256, on every machine.
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
        torch.manual_seed(UNTRAINED_SEED)
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
    state = model.state_dict()
    regression = {name: state.pop(name) for name in list(state) if "contact_head" in name}
    trunk = {
        # fair-esm's files keep the language-model head outside the sentence encoder.
        f"encoder.{name}" if name.startswith("lm_head") else f"encoder.sentence_encoder.{name}": x
        for name, x in state.items()
    }
    if architecture.has_regression:
        _save(regression_path(path), {"model": regression})
    _save(path, {**content, "model": trunk})


def _esm1_arguments(config: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of fair-esm's `ProteinBertModel`; ESM-1b has a norm in front."""
    renamed = {name.removeprefix("encoder_"): value for name, value in vars(config).items()}
    return argparse.Namespace(**renamed, emb_layer_norm_before=True)


def _save(path: Path, content: dict) -> None:
    # Through an open file: given a path, torch.save would put the temporary name into the bytes.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def regression_path(path: Path) -> Path:
    """Return where the contact regression of a fair-esm file belongs."""
    return path.with_name(f"{path.stem}-contact-regression.pt")


def find_regression(path: Path) -> Path | None:
    """Return the file that has the contact regression, if there is one."""
    if path.suffix == SAFETENSORS:
        return path
    regression = regression_path(path)
    return regression if regression.exists() else None


def read_checkpoint(path: Path) -> dict:
    """Read a fair-esm file without unpickling anything but tensors and its Namespace.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    except Exception as error:  # on foreign bytes torch's reader raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: damaged, or not a fair-esm weights file ({reason})") from error


def load_model(path: Path, architecture: Architecture) -> FairESM:
    """Load a model from a fair-esm file or a `.safetensors` file of an ESM-2.

    In eval mode, float32, on the CPU. The contact regression of a fair-esm file is optional: it
    changes nothing but contacts.

    Raises:
        WeightsError: the file is missing, damaged, or of another architecture.
    """
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path, architecture).eval()
    checkpoint = read_checkpoint(path)
    found = _read_architecture(path, checkpoint)
    wanted = (architecture.layers, architecture.embedding_dim, architecture.attention_heads)
    if found != (architecture.family, *wanted):
        raise WeightsError(f"{path}: holds {found}, but the config names {architecture}")
    regression = find_regression(path)
    try:
        model, _ = esm.pretrained.load_model_and_alphabet_core(
            architecture.family, checkpoint, read_checkpoint(regression) if regression else None
        )
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"{path}: {str(error).splitlines()[0]}") from error
    return model.eval()


def _read_architecture(path: Path, checkpoint: dict) -> tuple[str, int, int, int]:
    try:
        family = "esm2" if "cfg" in checkpoint else "esm1"
        config = checkpoint["cfg"]["model"] if family == "esm2" else checkpoint["args"]
        return (
            family,
            config.encoder_layers,
            config.encoder_embed_dim,
            config.encoder_attention_heads,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not an ESM file in fair-esm's format") from error


# -- Hugging Face's names --------------------------------------------------------------------------

_OF_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}
# Files of some versions of transformers have the older names of a norm's parameters.
_OF_PARAMETER = {"gamma": "weight", "beta": "bias"}
_OF_MODEL = {
    "esm.embeddings.word_embeddings": "embed_tokens",
    "esm.encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "esm.contact_head.regression": "contact_head.regression",
    "lm_head": "lm_head",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
    "lm_head.decoder": "lm_head",
}


def _load_safetensors(path: Path, architecture: Architecture) -> ESM2:
    try:
        theirs = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged, or no safetensors file ({error})") from error
    state = {renamed: x for name, x in theirs.items() if (renamed := _fair_esm_name(name))}
    model = ESM2(architecture.layers, architecture.embedding_dim, architecture.attention_heads)
    # What others can tell, whether or not it is in the file: rotary frequencies, tied weights.
    known = {name: x for name, x in model.state_dict().items() if "rot_emb" in name}
    known["lm_head.weight"] = state.get("embed_tokens.weight")
    try:
        model.load_state_dict({**known, **state})
    except (RuntimeError, TypeError) as error:
        raise WeightsError(
            f"{path}: does not hold an ESM-2 for masked language modelling of the shape that the "
            f"config names, {architecture} ({str(error).splitlines()[-1].strip()})"
        ) from error
    return model


def _fair_esm_name(name: str) -> str | None:
    """Return what fair-esm calls a parameter of Hugging Face's `EsmForMaskedLM`; None if none."""
    module, _, parameter = name.rpartition(".")
    parameter = _OF_PARAMETER.get(parameter, parameter)
    if module.startswith("esm.encoder.layer."):
        number, _, module = module.removeprefix("esm.encoder.layer.").partition(".")
        renamed = _OF_LAYER.get(module)
        return renamed and f"layers.{number}.{renamed}.{parameter}"
    renamed = _OF_MODEL.get(module)
    return renamed and f"{renamed}.{parameter}"
