"""Files as they come: plain or compressed, known by their first bytes, whatever they are called."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from spotesm.base.failures import InputError

BLOCK_BYTES = 64 << 10
MOST_FIRST_BYTES = 8
SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst")  # as such files are usually called
SKIPPABLE_ZSTD = [bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16)]  # pzstd's first
UTF_16 = "UTF-16 text; convert it, such as by: iconv -f UTF-16 -t UTF-8"
# What a file that is not read here begins with, and what it is.
FOREIGN = (
    ((b"PK\x03\x04", b"PK\x05\x06"), "a zip archive; unpack it, and name what is in it"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive; unpack it, and name what is in it"),
    ((b"Rar!",), "a RAR archive; unpack it, and name what is in it"),
    ((b"\x04\x22\x4d\x18",), "compressed by lz4; decompress it, or use gzip or zstd"),
    ((b"\x1f\x9d",), "compressed by compress; decompress it, or use gzip or zstd"),
    ((b"LZIP",), "compressed by lzip; decompress it, or use gzip or zstd"),
    ((b"%PDF",), "a PDF; save its sequences as text"),
    ((b"\x89HDF",), "an HDF5 file; name the FASTA that it was made of"),
    ((b"\xff\xfe", b"\xfe\xff", b">\0", b"\0>"), UTF_16),
)
# What a damaged file ends in; the disk's own faults are OSErrors, too, but not these.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


class _Members(io.RawIOBase):
    """The content of a compressed file of one member or several, each of which must be whole.

    Python's own readers take a damaged second member for rubbish, and leave it out.
    """

    def __init__(self, raw: BinaryIO, start_member: Callable[[], object]) -> None:
        self._raw = raw
        self._start_member = start_member
        self._member = start_member()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer: a short answer would hide what the content begins with."""
        filled = 0
        while filled < len(buffer) and (content := self._decompress(len(buffer) - filled)):
            buffer[filled : filled + len(content)] = content
            filled += len(content)
        return filled

    def _decompress(self, most: int) -> bytes:
        """Return up to so many of the next bytes; nothing at the end."""
        content = b""
        while not content:
            compressed = b""
            if self._member.eof:
                compressed = self._find_member()
                if not compressed:
                    return b""
                self._member = self._start_member()
            elif self._member.needs_input:
                compressed = self._raw.read(BLOCK_BYTES)
                if not compressed:
                    raise EOFError("it ends too early")
            try:
                content = self._member.decompress(compressed, most)
            except (OSError, lzma.LZMAError, zstd.ZstdError) as error:
                raise EOFError(str(error)) from error
        return content

    def _find_member(self) -> bytes:
        """Return the beginning of the next member, after any padding; nothing at the end."""
        compressed = self._member.unused_data.lstrip(b"\0")
        while not compressed:
            block = self._raw.read(BLOCK_BYTES)
            if not block:
                break
            compressed = block.lstrip(b"\0")
        return compressed


# What a compressed file begins with, and how it is read.
READERS: tuple[tuple[tuple[bytes, ...], Callable[[BinaryIO], BinaryIO]], ...] = (
    ((b"\x1f\x8b",), lambda raw: gzip.GzipFile(fileobj=raw, mode="rb")),
    ((b"BZh",), lambda raw: _Members(raw, bz2.BZ2Decompressor)),
    ((b"\xfd7zXZ\0",), lambda raw: _Members(raw, lzma.LZMADecompressor)),
    ((b"\x28\xb5\x2f\xfd", *SKIPPABLE_ZSTD), lambda raw: _Members(raw, zstd.ZstdDecompressor)),
)


def open_by_content(raw: BinaryIO, name: str) -> io.BufferedReader:
    """Return what an open file holds, decompressed as often as it was compressed.

    Args:
        name: of the file, for the error.

    Raises:
        InputError: it is of a kind that is not read.
        *DAMAGE: here or while reading: it is damaged or truncated.
    """
    stream = io.BufferedReader(raw, BLOCK_BYTES)
    while True:
        first = stream.peek(MOST_FIRST_BYTES)
        for beginnings, what in FOREIGN:
            if first.startswith(beginnings):
                raise InputError(f"{name}: {what}")
        for beginnings, start in READERS:
            if first.startswith(beginnings):
                stream = io.BufferedReader(start(stream), BLOCK_BYTES)
                break
        else:
            return stream
