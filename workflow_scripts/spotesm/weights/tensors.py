"""A model as named tensors: what every form of weights becomes, and what must hold of it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import (
    ARCHITECTURES,
    FAMILIES,
    LM_HEAD,
    OPTIONAL,
    POSITIONS,
    REGRESSION,
    ROTARY_BASE,
    Architecture,
    tensor_shapes,
)

log = logging.getLogger(__name__)

Read = Callable[[], Tensor]
NAMED_AT_MOST = 4
STORED_AS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# A piece of a name that only one family's tensors have, or, in this order, the first of them; what
# is in the names of an ESM C has been told from these before.
_TELLING = (("esm1", POSITIONS), ("esm2", "_layer_norm."))


@dataclass(frozen=True)
class Source:
    """Where a model's tensors come from.

    Attributes:
        where: what the user calls it; for messages.
        architecture: the shape that it has.
        tensors: what reads each tensor, by the names of `tensor_shapes`; mapped from the file
            where the format allows.
        files: all files that are read, those that hold tensors first.
        token_dropout: whether embeddings are scaled as training with masks wants it, in families
            that know of it.
    """

    where: str
    architecture: Architecture
    tensors: Mapping[str, Read]
    files: tuple[Path, ...] = ()
    token_dropout: bool = True

    def get(self, name: str) -> Tensor:
        """Return a tensor, in the precision that it is stored in; not to be written to."""
        return self.tensors[name]()

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self.tensors)

    @property
    def has_logits(self) -> bool:
        """Whether the head of masked language modelling is there."""
        return self.names.issuperset(LM_HEAD)

    @property
    def has_contacts(self) -> bool:
        """Whether the contact regression is there."""
        return self.names.issuperset(REGRESSION)


@dataclass(frozen=True)
class Part:
    """What a tensor of a file is to us: one of ours, or some of its rows are.

    Attributes:
        name: of `tensor_shapes`.
        index: which of the shares, from 0.
        shares: in how many shares of as many rows the file's tensor falls.
    """

    name: str
    index: int = 0
    shares: int = 1

    def of(self, read: Read) -> Read:
        """Return what reads these rows."""
        if self.shares == 1:
            return read
        return lambda: _share_of(read(), self.index, self.shares)


def _share_of(tensor: Tensor, index: int, shares: int) -> Tensor:
    # Rows that do not fall into equal shares leave one of another shape, which is refused.
    return tensor.tensor_split(shares)[index] if tensor.dim() else tensor


@dataclass(frozen=True)
class Naming:
    """How files name the tensors of a family.

    Attributes:
        parts_of: what a tensor of that name is to us; nothing if it is not known.
        is_harmless: whether one that is not known has no part in any output.
    """

    parts_of: Callable[[str], tuple[Part, ...]]
    is_harmless: Callable[[str], bool]


def rename(
    where: str, found: Iterable[tuple[str, Read]], naming: Naming, models: str
) -> Iterator[tuple[str, str, Read]]:
    """Yield our name, the file's, and what reads the tensor.

    Args:
        models: what has such tensors; for messages.

    Raises:
        WeightsError: there is one that no such model has, or an adapter that is not merged.
    """
    left_out, unknown = [], []
    for name, read in found:
        if "lora_" in name or ".base_layer." in name:
            raise WeightsError(
                f"{where}: holds an adapter that is not merged ({name}); save the model after "
                "peft's merge_and_unload, or give the base as model: weights and the folder that "
                "peft wrote as model: adapter"
            )
        parts = naming.parts_of(name)
        yield from ((part.name, name, part.of(read)) for part in parts)
        if not parts:
            (left_out if naming.is_harmless(name) else unknown).append(name)
    if unknown:
        raise WeightsError(
            f"{where}: holds {', '.join(sorted(unknown)[:4])}, which no {models} has; it is "
            "another model, or a part of one"
        )
    if left_out:
        log.info("%s: has no part in any output: %s", where, ", ".join(sorted(left_out)))


def check_family(where: str, family: str, architecture: Architecture, says: str = "holds") -> None:
    """Check that what a file holds, or says, is of the family that is asked for.

    Raises:
        WeightsError: it is not.
    """
    if family != architecture.family:
        raise WeightsError(
            f"{where}: {says} {FAMILIES[family].title}, but model: name is "
            f"{architecture.traits.title}"
        )


def named_tensors(where: str, content: Mapping[object, object]) -> dict[str, Tensor]:
    """Return what torch read, if it is tensors by name and nothing else.

    Raises:
        WeightsError: it is not.
    """
    tensors = {
        name: x.detach()  # parameters, too
        for name, x in content.items()
        if isinstance(name, str) and isinstance(x, Tensor)
    }
    if others := [str(name) for name in content if name not in tensors]:
        hint = "; save its state_dict alone" if "state_dict" in content else ""
        raise WeightsError(
            f"{where}: not a file of fair-esm or transformers: holds {', '.join(others[:6])}{hint}"
        )
    return tensors


def check_stored(where: str, name: str, tensor: Tensor) -> None:
    """Check that what is stored are the numbers themselves.

    Raises:
        WeightsError: they are quantised, sparse, or were left out.
    """
    if tensor.is_meta:
        raise WeightsError(f"{where}: {name} has a shape, but no numbers; save the whole model")
    if tensor.dtype not in STORED_AS or tensor.layout != torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise WeightsError(
            f"{where}: {name} is stored as {kind}: quantised, or no weights; save the model in "
            "float32, bfloat16 or float16"
        )


def gather(where: str, found: Iterable[tuple[str, str, Read]]) -> dict[str, Read]:
    """Collect tensors; what is there twice must be the same.

    Args:
        found: name, name in the file, and what reads it.

    Raises:
        WeightsError: two tensors that should be one differ, or hold no plain numbers.
    """
    tensors: dict[str, Read] = {}
    origins: dict[str, str] = {}
    for name, origin, read in found:
        check_stored(where, origin, read())
        if name in tensors and not torch.equal(tensors[name](), read()):
            raise WeightsError(
                f"{where}: {origins[name]} and {origin} are two values of one tensor, and differ"
            )
        tensors[name] = read
        origins[name] = origin
    return tensors


def check_frequencies(where: str, found: Tensor) -> None:
    """Check that rotary frequencies are those of the formula.

    Half precision rounds them by up to 0.4%.

    Raises:
        WeightsError: they are others.
    """
    exponents = torch.arange(len(found)) / len(found)
    if not torch.allclose(found.float(), 1.0 / ROTARY_BASE**exponents, rtol=1e-2, atol=0):
        raise WeightsError(f"{where}: its rotary frequencies are not those of ESM models")


def tie_decoder(where: str, tensors: dict[str, Read], tied: bool = True, hint: str = "") -> None:
    """Give the head its decoder, which is the token embedding unless the model says otherwise.

    Args:
        hint: what to do if it should be, and differs.

    Raises:
        WeightsError: it should be, and differs.
    """
    decoder, embedding = LM_HEAD[0], tensors.get("embed_tokens.weight")
    if embedding is None:
        return
    if decoder not in tensors:
        if tied and tensors.keys() & set(LM_HEAD):
            tensors[decoder] = embedding
    elif tied and not torch.equal(tensors[decoder](), embedding()):
        raise WeightsError(
            f"{where}: its decoder ({decoder}) and its token embedding should be one tensor, and "
            f"differ{hint}"
        )


def check_tensors(source: Source) -> None:
    """Check that a source has what its architecture needs, and nothing else.

    Raises:
        WeightsError: it is of another family or shape, or tensors are missing or too many.
    """
    where, wanted = source.where, tensor_shapes(source.architecture)
    family = _family_of(source)
    check_family(where, family, source.architecture)
    other = _shape_of(source)
    if other and other != (source.architecture.layers, source.architecture.embedding_dim):
        raise WeightsError(
            f"{where}: holds a model of {other[0]} layers and {other[1]} dimensions"
            f"{_model_of_shape(family, *other)}, but model: name has "
            f"{source.architecture.layers} and {source.architecture.embedding_dim}"
        )
    optional = set().union(*OPTIONAL)
    missing = wanted.keys() - source.names - optional
    for group in OPTIONAL:
        if source.names & set(group):
            missing |= (wanted.keys() & set(group)) - source.names
    if missing:
        raise WeightsError(
            f"{where}: {_some(missing)} missing; it is not whole, or one of several files (then "
            "name their folder, or their index)"
        )
    if more := source.names - wanted.keys():
        raise WeightsError(
            f"{where}: {_some(more)} more than the model has; they would be left out, "
            "and the numbers be those of another model"
        )
    for name in sorted(source.names):
        if (shape := tuple(source.get(name).shape)) != wanted[name]:
            raise WeightsError(f"{where}: {name} is {shape}, and should be {wanted[name]}")


def _family_of(source: Source) -> str:
    """Return the family whose names the tensors have; that asked for where nothing tells."""
    for family, telling in _TELLING:
        if any(telling in name for name in source.names):
            return family
    return source.architecture.family


def _shape_of(source: Source) -> tuple[int, int] | None:
    """Return layers and dimensions; None where some tensors are missing, which is better said."""
    numbers = {int(name.split(".")[1]) for name in source.names if name.startswith("layers.")}
    behind = {name for name in tensor_shapes(source.architecture) if not name.startswith("layers.")}
    if not numbers or behind - set().union(*OPTIONAL) - source.names:
        return None
    if numbers != set(range(len(numbers))):
        return None
    return len(numbers), source.get("embed_tokens.weight").shape[-1]


def _model_of_shape(family: str, layers: int, dim: int) -> str:
    for name, shape in ARCHITECTURES.items():
        if (shape.family, shape.layers, shape.embedding_dim) == (family, layers, dim):
            return f", as {name}"
    return ""


def _some(names: Iterable[str]) -> str:
    """Name a few of them, and say how many there are."""
    names = sorted(names)
    rest = f" and {len(names) - NAMED_AT_MOST} others" if len(names) > NAMED_AT_MOST else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names[:NAMED_AT_MOST])}{rest} {verb}"


def check_finite(source: Source) -> None:
    """Check every number.

    Raises:
        WeightsError: one is NaN or infinite; names the tensor.
    """
    for name in sorted(source.names):
        # Ten times as fast as isfinite on each value: what is no number ends up in both.
        least, most = source.get(name).aminmax()
        if not (least.isfinite() and most.isfinite()):
            raise WeightsError(
                f"{source.where}: {name} holds a NaN or an infinite number; the file is damaged, "
                "or its training failed"
            )
