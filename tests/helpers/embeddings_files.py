"""An `embeddings.h5` of chosen records and random values, written by h5py alone."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from sequences import random_sequence, write_fasta

DIMENSIONS = 5
ALPHABET = [f"token {i}" for i in range(33)]


@dataclass
class EmbeddingsFile:
    """A file, and what is in it.

    Attributes:
        records: id and sequence of each row.
        values: of each key, one array a record: (D,), (l, D), (l, 33), or (windows, w, w).
    """

    path: Path
    fasta: Path
    records: list[tuple[str, str]]
    values: dict[str, list[np.ndarray]]

    @property
    def ids(self) -> list[str]:
        return [identifier for identifier, _ in self.records]


def write_embeddings(
    folder: Path, ids: list[str], store_dtype: str = "float32", truncated: bool = False
) -> EmbeddingsFile:
    """Records of 1 to 9 residues; every third has its contacts in two windows.

    Equal ids have different sequences; the sequence of record 1 is that of record 4, too. The FASTA
    has lower case, and rejected records between the others.
    """
    rng, random_values = random.Random(len(ids)), np.random.default_rng(len(ids))
    sequences = [random_sequence(rng, rng.randint(2, 9)) for _ in ids]
    if len(ids) > 4:
        sequences[4] = sequences[1]
    rows = [max(1, len(s) - truncated) for s in sequences]

    def draw(*shape: int) -> np.ndarray:
        return random_values.normal(size=shape).astype(store_dtype)

    windows = [1 + (i % 3 == 2) for i in range(len(ids))]
    values = {
        "mean/6": [draw(DIMENSIONS) for _ in ids],
        "bos/2": [draw(DIMENSIONS) for _ in ids],
        "residues/6": [draw(n, DIMENSIONS) for n in rows],
        "logits/values": [draw(n, 33) for n in rows],
        "contacts/values": [draw(w, n, n) for w, n in zip(windows, rows, strict=True)],
    }
    records = list(zip(ids, sequences, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "embeddings.h5"
    with h5py.File(path, "w") as file:
        file["sequence_ids"] = np.array(ids, dtype=h5py.string_dtype())
        file["lengths"] = np.array([len(s) for s in sequences], np.int32)
        file["windows"] = np.array(windows, np.int32)
        digests = [hashlib.blake2b(s.encode(), digest_size=16).digest() for s in sequences]
        file["digests"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        for key, arrays in values.items():
            _write(file, key, arrays, store_dtype)
        file["logits"].attrs["alphabet"] = ALPHABET
        file["embeddings"] = h5py.SoftLink("/mean/6")
        file.attrs.update(
            format="spotesm",
            format_version=1,
            model="esm2_t6_8M_UR50D",
            layers=[2, 6],
            fingerprint=json.dumps({"engine": "packed"}),
        )
    raw = [(identifier, sequence.lower() + "*") for identifier, sequence in records]
    fasta = write_fasta(folder / "in.fasta", [("bad", "AC*DE"), *raw, *raw[:1], ("worse", "1")])
    return EmbeddingsFile(path, fasta, records, values)


def _write(file: h5py.File, key: str, arrays: list[np.ndarray], dtype: str) -> None:
    if key in ("mean/6", "bos/2"):
        file[key] = np.array(arrays, dtype).reshape(-1, DIMENSIONS)
        return
    width = {"residues/6": (DIMENSIONS,), "logits/values": (33,)}.get(key, ())
    flat = [array.reshape(-1, *width) for array in arrays]
    file[key] = np.concatenate([*flat, np.empty((0, *width), dtype)])
    group = key.partition("/")[0]
    file[f"{group}/offsets"] = np.cumsum([0, *map(len, flat)], dtype=np.int64)
