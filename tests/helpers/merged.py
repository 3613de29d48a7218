"""Files of the merge's form, written without running anything."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from spotesm.hdf5.format import FORMAT, FORMAT_VERSION

SEQUENCE = "AC"  # of each record


def write_merged(path: Path, ids: Sequence[str], **datasets: np.ndarray) -> Path:
    """Write a file; `mean_6=...` is its dataset `mean/6`, to which `embeddings` links."""
    n = len(ids)
    with h5py.File(path, "w") as file:
        file.create_dataset("sequence_ids", data=np.array(ids, object), dtype=h5py.string_dtype())
        file["lengths"] = np.full(n, len(SEQUENCE), np.int32)
        digest = hashlib.blake2b(SEQUENCE.encode(), digest_size=16).digest()
        file["digests"] = np.tile(np.frombuffer(digest, np.uint8), (n, 1))
        file["windows"] = np.ones(n, np.int32)
        for name, values in datasets.items():
            file[name.replace("_", "/", 1)] = values
        file["embeddings"] = h5py.SoftLink("/mean/6")
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model="esm2_t6_8M_UR50D")
    return path
