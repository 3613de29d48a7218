"""Datasets read through a memory map: no copy, no chunk, one page for one row."""

import os

import h5py
import numpy as np

from spotesm.base.failures import IncompleteError


def map_dataset(dataset: h5py.Dataset) -> np.ndarray | None:
    """Map a dataset, read-only; None if it does not lie in one piece, as it is, in the file.

    Files of ours are replaced, never rewritten in place, so a map stays what it was.

    Raises:
        IncompleteError: the file is shorter than it says; touching the map would end the process.
    """
    offset = dataset.id.get_offset()
    if offset is None or not dataset.size:
        return None
    path = dataset.file.filename
    if os.path.getsize(path) < offset + dataset.nbytes:
        raise IncompleteError(f"{path}: is truncated; make it again or copy it again")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
