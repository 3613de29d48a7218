"""Where the rows of a merged file come from, if any was taken from an earlier file: `/reused`."""

from collections.abc import Sequence

import h5py
import numpy as np

from spotesm.merged.shard_rows import ShardRows
from spotesm.shards.shard_file import REUSED


class Reused:
    """The dataset `reused`, filled from the first row on; there is none where all was computed.

    Args:
        file: the merged file; its attribute `reused_from` names the earlier ones.
        shards: their attributes of the same name have their own order.
        n: rows.
    """

    def __init__(self, file: h5py.File, shards: Sequence[ShardRows], n: int) -> None:
        self.shards = shards
        names = list(dict.fromkeys(name for shard in shards for name in shard.origins))
        # By shard, what its own numbers are in the merged file.
        self.numbers = [
            np.array([0, *(1 + names.index(name) for name in shard.origins)]) for shard in shards
        ]
        self.dataset = file.create_dataset(REUSED, n, np.uint16) if names else None
        if names:
            file.attrs["reused_from"] = names
        self._end = 0

    def append(self, shards: np.ndarray, places: np.ndarray) -> None:
        """Write whence the next rows come: the `places` (r,) of `shards` (r,)."""
        if self.dataset is None:
            return
        numbers = np.zeros(len(places), np.uint16)
        for shard in np.unique(shards):
            if self.shards[shard].origins:
                here = np.flatnonzero(shards == shard)
                first, last = places[here[0]], places[here[-1]]
                own = self.shards[shard].read(REUSED, first, last + 1)
                numbers[here] = self.numbers[shard][own[places[here] - first]]
        self.dataset[self._end : self._end + len(numbers)] = numbers
        self._end += len(numbers)
