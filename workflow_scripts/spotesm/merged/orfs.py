"""Where on which contig each protein of a merged file lies: `/orfs`."""

from collections.abc import Sequence

import h5py
import numpy as np

from spotesm.sequences.translation import parse_orf_id


class Origins:
    """Where on which contig each protein lies, as its id says."""

    def __init__(self, file: h5py.File, n: int) -> None:
        self.columns = [
            file.create_dataset(f"orfs/{name}", n, dtype)
            for name, dtype in (
                ("contigs", h5py.string_dtype("utf-8")),
                ("frames", np.int8),
                ("starts", np.int64),
                ("ends", np.int64),
            )
        ]
        self._end = 0

    def append(self, ids: Sequence[bytes]) -> None:
        """Write what the next ids say."""
        rows = slice(self._end, self._end + len(ids))
        if len(ids):
            for column, values in zip(
                self.columns,
                zip(*map(parse_orf_id, (identifier.decode() for identifier in ids)), strict=True),
                strict=True,
            ):
                column[rows] = values
        self._end = rows.stop
