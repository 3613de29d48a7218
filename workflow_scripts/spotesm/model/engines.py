"""The engines: what runs a model, and how it is started from weights."""

from collections.abc import Callable
from pathlib import Path

import torch

from spotesm.base.failures import NoLocksError
from spotesm.model.packed import PackedModel
from spotesm.model.reference import ReferenceEngine
from spotesm.weights.architectures import PACKED, REFERENCE
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared, warn_unkept

Engine = PackedModel | ReferenceEngine
ENGINES: dict[str, type[Engine]] = {PACKED: PackedModel, REFERENCE: ReferenceEngine}


def start_packed(
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
    check_stop: Callable[[], None] = lambda: None,
) -> PackedModel:
    """Start the packed engine from prepared weights in `folder`, which are made if need be.

    Where they cannot be kept, such as on a full disk, they are made in memory alone.

    Args:
        check_stop: called now and then while another process makes them.

    Raises:
        WeightsError: the weights are not what was fetched.
    """
    try:
        tensors = Prepared(weights, dtype, folder).open(device, check_stop)
    except (OSError, NoLocksError) as error:
        warn_unkept(folder, error)
        return PackedModel.of_source(weights.open(), device, dtype)
    return PackedModel(tensors, weights.architecture, device, dtype)
