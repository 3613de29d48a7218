"""Models in fair-esm's format, whose `.pt` files hold their own rotary frequencies.

`{"cfg": {"model": Namespace}, "model": state dict}` for ESM-2, `{"args": Namespace, "model": ...}`
for ESM-1b and ESM-1v; `NAME-contact-regression.pt` beside `NAME.pt`. Or the state dict alone, of
fair-esm's own classes: then the model is as published.
"""

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import FREQUENCIES, LM_HEAD, REGRESSION, Architecture
from spotesm.weights.tensors import Read, Source, check_family, gather, named_tensors, tie_decoder

_PREFIX = re.compile(r"^(module\.|model\.|_orig_mod\.)*(encoder\.)?(sentence_encoder\.)?")
_ROTARY = re.compile(r"layers\.\d+\.self_attn\.rot_emb\.inv_freq")
_MASK = 32  # the number of the mask token


def is_fair_esm(content: dict) -> bool:
    """Whether what torch read is in fair-esm's format."""
    return isinstance(content.get("model"), dict) and ("cfg" in content or "args" in content)


def is_state_dict(names: Iterable[str]) -> bool:
    """Whether these are the names of tensors in fair-esm's own classes."""
    return any(_PREFIX.sub("", name) == "embed_tokens.weight" for name in names)


def open_fair_esm(path: Path, content: dict, architecture: Architecture) -> Source:
    """Return a model of fair-esm.

    Args:
        content: what torch read.

    Raises:
        WeightsError: it is of another family, or holds two values of one tensor.
    """
    where = str(path)
    family, settings = _settings_of(where, content)
    check_family(where, family, architecture)
    heads = settings.get("encoder_attention_heads", architecture.attention_heads)
    if heads != architecture.attention_heads:
        raise WeightsError(
            f"{where}: has {heads} attention heads, but model: name has "
            f"{architecture.attention_heads}"
        )
    tensors = _readers(named_tensors(where, content["model"]))
    source = open_state_dict(where, (path,), tensors, architecture)
    return replace(source, token_dropout=bool(settings.get("token_dropout", family == "esm2")))


def open_state_dict(
    where: str, files: tuple[Path, ...], tensors: Mapping[str, Read], architecture: Architecture
) -> Source:
    """Return a model by its tensors alone.

    Args:
        tensors: the names in its files, and what reads each.

    Raises:
        WeightsError: it holds two values of one tensor.
    """
    gathered = gather(where, _rename(tensors))
    tie_decoder(where, gathered)
    if architecture.family == "esm1":
        # As fair-esm does on loading: the mask token's embedding, and so its logit, is zero.
        for name in ("embed_tokens.weight", LM_HEAD[0]):
            if name in gathered:
                gathered[name] = _without_mask(gathered[name])
    return Source(where, architecture, gathered, files)


def add_regression(source: Source, path: Path, content: dict) -> Source:
    """Return the model with the contact regression that lies beside it.

    Args:
        content: what torch read in `path`.

    Raises:
        WeightsError: it is none, or the model has another one.
    """
    more = content.get("model")
    if not isinstance(more, dict) or more.keys() != set(REGRESSION):
        raise WeightsError(f"{path}: not a contact regression in fair-esm's format")
    own = ((name, name, read) for name, read in source.tensors.items())
    found = chain(own, _rename(_readers(named_tensors(str(path), more))))
    return replace(source, tensors=gather(str(path), found), files=(*source.files, path))


def _settings_of(where: str, content: dict) -> tuple[str, dict[str, object]]:
    try:
        if "cfg" in content:
            return "esm2", _as_dict(content["cfg"]["model"])
        settings = _as_dict(content["args"])
        if settings["arch"] != "roberta_large":
            raise WeightsError(f"{where}: an ESM-1 of before ESM-1b, which is not computed")
        return "esm1", settings
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{where}: not an ESM file in fair-esm's format") from error


def _as_dict(settings: Namespace | dict) -> dict[str, object]:
    return settings if isinstance(settings, dict) else vars(settings)


def _readers(tensors: Mapping[str, Tensor]) -> dict[str, Read]:
    return {name: lambda x=tensor: x for name, tensor in tensors.items()}


def _rename(tensors: Mapping[str, Read]) -> Iterator[tuple[str, str, Read]]:
    for name, read in tensors.items():
        bare = _PREFIX.sub("", name)
        yield FREQUENCIES if _ROTARY.fullmatch(bare) else bare, name, read


def _without_mask(read: Read) -> Read:
    def zeroed() -> Tensor:
        embedding = read().clone()
        embedding[_MASK].zero_()
        return embedding

    return zeroed
