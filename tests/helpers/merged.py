"""Files of the merge's form, written without running anything."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from spotesm.hdf5.format import FORMAT, FORMAT_VERSION


def write_merged(path: Path, ids: Sequence[str], **datasets: np.ndarray) -> Path:
    """Write a file; `mean_6=...` is its dataset `mean/6`, to which `embeddings` links."""
    n = len(ids)
    with h5py.File(path, "w") as file:
        file.create_dataset("sequence_ids", data=np.array(ids, object), dtype=h5py.string_dtype())
        file["lengths"] = np.full(n, 2, np.int32)
        file["digests"] = np.zeros((n, 16), np.uint8)
        file["windows"] = np.ones(n, np.int32)
        for name, values in datasets.items():
            file[name.replace("_", "/", 1)] = values
        file["embeddings"] = h5py.SoftLink("/mean/6")
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model="esm2_t6_8M_UR50D")
    return path
