"""What an export reads: records and their values, a bounded number of bytes at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spotesm.hdf5.pieces import blocks_of, bytes_of_row
from spotesm.merged.reader import Embeddings
from spotesm.request.outputs import CONTACTS, offsets_of, output_of

ROWS_AT_ONCE = 4096
BYTES_AT_ONCE = 64 << 20


@dataclass(frozen=True)
class Block:
    """Some records, one after another.

    Attributes:
        ids: (k,) text.
        lengths: (k,) int32, residues.
        digests: (k, 16) uint8.
        windows: (k,) int32.
        values: (k, D) where each record has one row, else (r, ...), all of theirs.
        offsets: (k + 1,) int64; the values of record i are `offsets[i]` to `offsets[i + 1]`.
    """

    ids: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    windows: np.ndarray
    values: np.ndarray
    offsets: np.ndarray


class Records:
    """All records of a file, and which outputs are exported.

    Attributes:
        embeddings: the file.
        keys: of the outputs; a format with room for one takes the first.
        fasta: the dataset's FASTA, for formats that hold sequences.
        advance: is told how many more records are done.
        name: what a record of an id is called.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        keys: Sequence[str],
        fasta: Sequence[Path] = (),
        advance: Callable[[int], object] = lambda _: None,
        name: Callable[[str], str] = str,
    ) -> None:
        self.embeddings = embeddings
        self.keys = keys
        self.fasta = fasta
        self.advance = advance
        self.name = name
        self.output = output_of(keys[0])
        self.values = embeddings.file[keys[0]]

    def __len__(self) -> int:
        return len(self.embeddings)

    def names(self) -> Iterator[str]:
        """Yield what each record is called, in order."""
        return map(self.name, self.embeddings.iterate_ids())

    def offsets(self) -> np.ndarray:
        """Return where each record's values begin and, last, where they end: (N + 1,) int64."""
        if self.output.ragged:
            return self.embeddings.file[offsets_of(self.output)][:]
        return np.arange(len(self) + 1)

    def blocks(self) -> Iterator[Block]:
        """Yield the records in order, as many at once as memory should hold."""
        file, offsets = self.embeddings.file, self.offsets()
        most = max(1, BYTES_AT_ONCE // bytes_of_row(self.values))
        for some in blocks_of(offsets, most):
            for start in range(some.start, some.stop, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, some.stop)
                yield Block(
                    file["sequence_ids"].asstr()[start:stop],
                    file["lengths"][start:stop],
                    file["digests"][start:stop],
                    file["windows"][start:stop],
                    self.values[offsets[start] : offsets[stop]],
                    offsets[start : stop + 1] - offsets[start],
                )
                self.advance(stop - start)

    def arrays(self, block: Block) -> Iterator[tuple[str, np.ndarray]]:
        """Yield id and values of each record: (D,), (l, D), (l, 33), or maps of contacts.

        A record of one window has one map, (w, w), one of several (windows, w, w).
        """
        for i, identifier in enumerate(block.ids):
            values = block.values[block.offsets[i] : block.offsets[i + 1]]
            if self.output.name == CONTACTS:
                side = round((len(values) / block.windows[i]) ** 0.5)
                values = values.reshape(-1, side, side)
            one = not self.output.ragged or (self.output.name == CONTACTS and len(values) == 1)
            yield identifier, values[0] if one else values
