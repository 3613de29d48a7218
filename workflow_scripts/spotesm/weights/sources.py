"""Open a model, whatever form it has: told by its bytes and its config.json, not by its name."""

import argparse
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from spotesm.base.failures import WeightsError
from spotesm.weights.adapters import merge_adapter
from spotesm.weights.architectures import REGRESSION, Architecture
from spotesm.weights.esmc import is_esmc, open_esmc
from spotesm.weights.fair_esm import (
    add_regression,
    is_fair_esm,
    is_state_dict,
    open_fair_esm,
    open_state_dict,
)
from spotesm.weights.files import (
    CONFIG,
    Kind,
    ModelFiles,
    find_adapter,
    find_model,
    regression_path,
    tell_kind,
)
from spotesm.weights.hugging_face import is_esm2, open_hugging_face
from spotesm.weights.tensors import Read, Source, check_tensors, named_tensors


def open_source(where: Path, architecture: Architecture, adapter: Path | None = None) -> Source:
    """Open the model that a user names by its file, folder or index, and check its tensors.

    Nothing is read yet but names and shapes.

    Raises:
        WeightsError: it is not there, damaged, no ESM, of another shape, or says of itself what
            is not computed here.
    """
    files = find_model(where, with_adapter=adapter is not None)
    source = _open_model(where, files, architecture)
    path = regression_path(files.tensors[0])
    if path in files.others:
        source = add_regression(source, path, _read_torch(path))
    if not architecture.has_regression:  # then what is there was never trained
        kept = {name: read for name, read in source.tensors.items() if name not in REGRESSION}
        source = replace(source, tensors=kept)
    check_tensors(source)
    if adapter is None:
        return source
    files = find_adapter(adapter)
    source = merge_adapter(source, files, _read_flat(files.tensors[0]))
    check_tensors(source)
    return source


def _open_model(where: Path, files: ModelFiles, architecture: Architecture) -> Source:
    first = files.tensors[0]
    content = _read_torch(first) if tell_kind(first) is Kind.TORCH else {}
    if is_fair_esm(content):
        return open_fair_esm(first, content, architecture)
    flat = [_read_flat(path) for path in files.tensors]
    found = [pair for tensors in flat for pair in tensors.items()]
    names = [name for name, _ in found]
    # Where the names tell nothing, what is asked for does.
    if is_esmc(names) or (architecture.family == "esmc" and not is_esm2(names)):
        return open_esmc(str(where), files, found, architecture)
    if len(flat) == 1 and files.other(CONFIG) is None and is_state_dict(names):
        return open_state_dict(str(where), files.tensors, flat[0], architecture)
    return open_hugging_face(str(where), files, found, architecture)


def _read_flat(path: Path) -> dict[str, Read]:
    """Return what reads each tensor of a file that holds nothing else.

    Raises:
        WeightsError: it holds anything else.
    """
    kind = tell_kind(path)
    return dict(FORMATS[kind](path))


def _open_safetensors(path: Path) -> Iterator[tuple[str, Read]]:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        for name in file.keys():  # noqa: SIM118 - it is no dict
            yield name, lambda name=name: file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged, or no safetensors file ({error})") from error


def _open_flat_torch(path: Path) -> Iterator[tuple[str, Read]]:
    for name, tensor in named_tensors(str(path), _read_torch(path)).items():
        yield name, lambda x=tensor: x


# By what a file is: what reads its tensors.
FORMATS = {Kind.SAFETENSORS: _open_safetensors, Kind.TORCH: _open_flat_torch}


def _read_torch(path: Path) -> dict:
    """Read a file of torch, mapped if it can be; no code is unpickled."""
    tell_kind(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            if _can_be_mapped(path):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with open(path, "rb") as file:
                    content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            code = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
            named = f" ({code[1]})" if code else ""
            raise WeightsError(
                f"{path}: damaged, or holds Python objects beside tensors{named}, which spotESM "
                "never runs; save the model's state_dict alone, or as safetensors"
            ) from error
        except Exception as error:  # on foreign bytes torch's reader raises nearly anything
            if "TorchScript" in str(error):
                raise WeightsError(
                    f"{path}: a TorchScript archive, which holds code; save the model's state_dict"
                ) from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{path}: damaged; fetch it again ({reason})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not the tensors of a model")
    return content


def _can_be_mapped(path: Path) -> bool:
    """Whether it has torch's format of today, and no name that torch takes for another."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK" and path.suffix != ".safetensors"
