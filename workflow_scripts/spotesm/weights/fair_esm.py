"""Models in fair-esm's format, whose `.pt` files hold their own rotary frequencies.

`{"cfg": {"model": Namespace}, "model": state dict}` for ESM-2, `{"args": Namespace, "model": ...}`
for ESM-1b and ESM-1v; `NAME-contact-regression.pt` beside `NAME.pt`.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from torch import Tensor

from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import FREQUENCIES, LM_HEAD, REGRESSION, Architecture
from spotesm.weights.tensors import FAMILIES, Read, Source, gather, tie_decoder

_PREFIX = re.compile(r"^(encoder\.)?(sentence_encoder\.)?")
_ROTARY = re.compile(r"layers\.\d+\.self_attn\.rot_emb\.inv_freq")
_MASK = 32  # the number of the mask token


def is_fair_esm(content: dict) -> bool:
    """Whether what torch read is in fair-esm's format."""
    return isinstance(content.get("model"), dict) and ("cfg" in content or "args" in content)


def open_fair_esm(
    path: Path, content: dict, regression: tuple[Path, dict] | None, architecture: Architecture
) -> Source:
    """Return a model of fair-esm.

    Args:
        content: what torch read.
        regression: the file with the contact regression, and what torch read there.

    Raises:
        WeightsError: it is of another family, or holds two values of one tensor.
    """
    where = str(path)
    family, settings = _settings_of(where, content)
    if family != architecture.family:
        raise WeightsError(
            f"{where}: holds {FAMILIES[family]}, but model: name is {FAMILIES[architecture.family]}"
        )
    heads = getattr(settings, "encoder_attention_heads", architecture.attention_heads)
    if heads != architecture.attention_heads:
        raise WeightsError(
            f"{where}: has {heads} attention heads, but model: name has "
            f"{architecture.attention_heads}"
        )
    state = {_PREFIX.sub("", name): x for name, x in content["model"].items()}
    found = _rename(state)
    files = [path]
    if regression:
        more = regression[1].get("model")
        if not isinstance(more, dict) or more.keys() != set(REGRESSION):
            raise WeightsError(f"{regression[0]}: not a contact regression in fair-esm's format")
        found = chain(found, _rename(more))
        files.append(regression[0])
    tensors = gather(where, found)
    tie_decoder(where, tensors)
    if family == "esm1":
        # As fair-esm does on loading: the mask token's embedding, and so its logit, is zero.
        for name in ("embed_tokens.weight", LM_HEAD[0]):
            if name in tensors:
                tensors[name] = _without_mask(tensors[name])
    dropout = bool(getattr(settings, "token_dropout", family == "esm2"))
    return Source(where, architecture, tensors, tuple(files), dropout)


def _settings_of(where: str, content: dict) -> tuple[str, object]:
    try:
        if "cfg" in content:
            return "esm2", content["cfg"]["model"]
        if content["args"].arch != "roberta_large":
            raise WeightsError(f"{where}: an ESM-1 of before ESM-1b, which is not computed")
        return "esm1", content["args"]
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where}: not an ESM file in fair-esm's format") from error


def _rename(state: dict[str, Tensor]) -> Iterator[tuple[str, str, Read]]:
    for name, tensor in state.items():
        yield FREQUENCIES if _ROTARY.fullmatch(name) else name, name, lambda x=tensor: x


def _without_mask(read: Read) -> Read:
    def zeroed() -> Tensor:
        embedding = read().clone()
        embedding[_MASK].zero_()
        return embedding

    return zeroed
