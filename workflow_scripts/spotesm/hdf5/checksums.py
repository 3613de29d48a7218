"""Checksums of values: what a file must still hold of each record, to the last bit.

Beside each output, `checksums/KEY` (n,) uint32: the CRC-32 of the bytes of a record's values as
they lie in the file (zlib's `crc32`; ISO 3309), 0 where it has none. They are made of what was
computed, before it is written.
"""

import zlib
from itertools import pairwise

import numpy as np

from spotesm.request.results import Results

CHECKSUMS = "checksums"


def checksums_at(key: str) -> str:
    """Return where the checksums of an output lie."""
    return f"{CHECKSUMS}/{key}"


def checksum_of(values: np.ndarray) -> int:
    """Return the checksum of one record's values."""
    return zlib.crc32(np.ascontiguousarray(values))


def checksums_of(values: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return the checksum of each record's values, (k,) uint32.

    Args:
        values: of all records, one behind another.
        offsets: (k + 1,) where those of each begin and, last, where they end; a row each if left
            out.
    """
    values = np.ascontiguousarray(values)
    edges = range(len(values) + 1) if offsets is None else offsets.tolist()
    records = (values[start:end] for start, end in pairwise(edges))
    return np.fromiter(map(zlib.crc32, records), np.uint32, len(edges) - 1)


def checksums_under(key: str, results: Results) -> np.ndarray:
    """Return the checksum of what each sequence has under a key, (k,) uint32."""
    if key in results.rows:
        return checksums_of(results.rows[key])
    return checksums_of(results.ragged[key].values, results.ragged[key].offsets)
