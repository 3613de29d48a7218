"""The checksums and the index of a merged file, made anew record by record."""

import hashlib
import zlib

import h5py
import numpy as np


def restate(file: h5py.File, key: str) -> None:
    """Let the checksums of an output be those of the values that are there."""
    values, n = file[key], len(file["digests"])
    offsets = file.get(f"{key.partition('/')[0]}/offsets", range(n + 1))
    sums = [zlib.crc32(values[offsets[i] : offsets[i + 1]].tobytes()) for i in range(n)]
    file.require_dataset(f"checksums/{key}", n, np.uint32)[...] = sums


def restate_all(file: h5py.File) -> None:
    """Give a file that was written by h5py alone its checksums and its index."""
    for group in ("mean", "bos", "residues", "logits", "contacts"):
        for name in set(file.get(group, ())) - {"offsets"}:
            restate(file, f"{group}/{name}")
    ids = [
        hashlib.blake2b(i.encode(), digest_size=16).digest() for i in file["sequence_ids"].asstr()
    ]
    for name, texts in (("id", ids), ("digest", list(map(bytes, file["digests"][:])))):
        rows: dict[int, int] = {}
        pairs = sorted((int.from_bytes(t[:8], "big"), row) for row, t in enumerate(texts))
        for key, row in pairs:
            rows.setdefault(key, row)
        pairs = pairs if name == "id" else sorted(rows.items())
        file[f"index/{name}_keys"] = np.array([key for key, _ in pairs], np.uint64)
        file[f"index/{name}_rows"] = np.array([row for _, row in pairs], np.uint32)
