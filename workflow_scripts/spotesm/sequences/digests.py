"""Digests of sequences: one type everywhere, numpy's raw 16 bytes; converted at the edges only.

Not numpy's `S16`, which drops NUL bytes at the end.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

DIGEST_BYTES, KEY_BYTES = 16, 8
DIGEST = np.dtype(f"V{DIGEST_BYTES}")


def digest_sequence(sequence: bytes) -> bytes:
    """Return the blake2b-128 digest (16 bytes) of a normalised sequence."""
    return blake2b(sequence, digest_size=DIGEST_BYTES).digest()


def digests_of(sequences: Iterable[bytes]) -> np.ndarray:
    """Return the digests of k sequences, (k,) DIGEST."""
    return from_bytes(b"".join([digest_sequence(sequence) for sequence in sequences]))


def from_bytes(digests: bytes | np.ndarray) -> np.ndarray:
    """Return (k,) DIGEST from their bytes, or from (k, 16) uint8 as files hold them."""
    return np.frombuffer(bytes(digests), dtype=DIGEST)


def as_bytes(digests: np.ndarray) -> np.ndarray:
    """Return (k, 16) uint8, as files hold them."""
    return np.frombuffer(digests.tobytes(), np.uint8).reshape(-1, DIGEST_BYTES)


def keys_of(digests: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each, (k,) uint64, in the same order: big-endian."""
    return keys_of_bytes(as_bytes(digests))


def keys_of_bytes(digests: np.ndarray) -> np.ndarray:
    """Return the same of (k, 8 or more) uint8."""
    return digests[:, :KEY_BYTES].copy().view(">u8").reshape(-1).astype(np.uint64)


def keys_of_hashes(hashes: Iterable[bytes]) -> np.ndarray:
    """Return the same of hashes of `KEY_BYTES`, (k,) uint64."""
    return keys_of_bytes(np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, KEY_BYTES))


def from_hex(digests: Iterable[str]) -> np.ndarray:
    """Return (k,) DIGEST from what `as_hex` gave."""
    return from_bytes(b"".join(map(bytes.fromhex, digests)))


def as_hex(digests: np.ndarray) -> list[str]:
    """Return each digest in hex."""
    return [digest.tobytes().hex() for digest in digests]


def hash_text(text: str) -> bytes:
    """Return 8 bytes that stand for an id."""
    return hash_bytes(text.encode())


def hash_bytes(text: bytes) -> bytes:
    """Return the same of a text in UTF-8."""
    return digest_sequence(text)[:KEY_BYTES]
