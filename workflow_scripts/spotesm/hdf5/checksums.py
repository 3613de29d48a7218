"""Checksums of values: what a file must still hold of each record, to the last bit.

Beside each output, `checksums/KEY` (n,) uint32: the CRC-32 of the bytes of a record's values as
they lie in the file (zlib's `crc32`; ISO 3309), 0 where it has none. They are made of what was
computed, before it is written. Files of before there were any have no group `checksums`.
"""

import zlib
from collections.abc import Iterator

import h5py
import numpy as np

CHECKSUMS = "checksums"


def checksums_at(key: str) -> str:
    """Return where the checksums of an output lie."""
    return f"{CHECKSUMS}/{key}"


def has_checksums(file: h5py.File) -> bool:
    """Whether a file has any."""
    return CHECKSUMS in file


def list_checksums(file: h5py.File) -> list[str]:
    """Return where the checksums of all its outputs lie."""
    groups = file[CHECKSUMS].values() if has_checksums(file) else ()
    return [f"{group.name.strip('/')}/{name}" for group in groups for name in group]


def checksums_of(records: np.ndarray | Iterator[np.ndarray]) -> np.ndarray:
    """Return the checksum of each record's values, (k,) uint32.

    Args:
        records: the values of each; an array has those of a record in a row.
    """
    if isinstance(records, np.ndarray):
        records = iter(np.ascontiguousarray(records))
    return np.fromiter(map(zlib.crc32, records), np.uint32)


def cut(values: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the values of each record, which lie one behind another: `sizes` (k,) of them."""
    ends = np.cumsum(sizes).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield values[start:end]
