"""The one order in which training samples are read: a function of (seed, epoch) and the index alone.

Shards are permuted and taken in windows of a few; the samples of a window are shuffled together, so
reads stay within a few files while neighbours in a shard are far apart in the order. Positions count
on through the epochs: position p is the sample p mod n of epoch p div n.
"""

import numpy as np
from jaxtyping import Int64

from pipeline.data.hashing import key_of, permutation

WINDOW_SHARDS = 8
"""Shards shuffled together."""

_SHARDS, _SAMPLES = 1, 2


def epoch_order(starts: Int64[np.ndarray, " edge"], seed: int, epoch: int) -> Int64[np.ndarray, " row"]:
    """The rows of a split in the order of one epoch.

    Args:
        starts: First row of every shard, and at the end the number of rows.
        seed: The run's seed.
        epoch: Counted from 0.
    """
    shards = permutation(len(starts) - 1, key_of(seed, epoch, _SHARDS))
    windows = []
    for number, first in enumerate(range(0, len(shards), WINDOW_SHARDS)):
        members = [
            np.arange(starts[shard], starts[shard + 1]) for shard in shards[first : first + WINDOW_SHARDS]
        ]
        rows = np.concatenate(members)
        windows.append(rows[permutation(len(rows), key_of(seed, epoch, _SAMPLES, number))])
    return np.concatenate(windows)


class Order:
    """Rows by position; keeps the orders of the epochs at hand."""

    def __init__(self, starts: Int64[np.ndarray, " edge"], seed: int) -> None:
        self._starts, self._seed = starts, seed
        self._count = int(starts[-1])
        self._epochs: dict[int, Int64[np.ndarray, " row"]] = {}

    def rows(self, position: int, count: int) -> Int64[np.ndarray, " row"]:
        """The rows at `count` positions from `position` on, through as many epochs as that takes."""
        parts = []
        while count:
            epoch, offset = divmod(position, self._count)
            part = self._epoch(epoch)[offset : offset + count]
            parts.append(part)
            position += len(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _epoch(self, epoch: int) -> Int64[np.ndarray, " row"]:
        if epoch not in self._epochs:
            self._epochs = {kept: rows for kept, rows in self._epochs.items() if kept == epoch - 1}
            self._epochs[epoch] = epoch_order(self._starts, self._seed, epoch)
        return self._epochs[epoch]
