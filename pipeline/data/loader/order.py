"""The one order in which training samples are read: a function of (seed, epoch) and the index alone.

Shards are permuted and taken in windows of a few; the samples of a window are shuffled together, so
reads stay within a few files while neighbours in a shard are far apart in the order. Positions count
on through the epochs: position p is the sample p mod n of epoch p div n.

With C streams, every global batch has C equal parts, and part c comes from stream c. Shards belong to
streams for good: permuted once by the seed, they are cut into C pieces of (nearly) as many samples,
and an epoch shuffles each piece on its own. A piece holds as many samples as its part of the epoch's
batches has places, so every sample still comes once per epoch; since that number varies by at most a
part of a batch, so do the cuts.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pipeline.data.hashing import key_of, permutation

WINDOW_SHARDS = 8
"""Shards shuffled together."""

_SHARDS, _SAMPLES, _STREAMS = 1, 2, 3
_WINDOWS_KEPT = 4

Piece = tuple[int, int, int]
"""A tar of the split, and the first and last (exclusive) of the rows of it that belong to a stream."""


@dataclass(frozen=True)
class _Sequence:
    """What one stream reads in one epoch.

    Attributes:
        windows: Pieces of tars that are shuffled together.
        edges: Place of every window's first sample, and at the end the number of samples.
    """

    windows: list[list[Piece]]
    edges: Int64[np.ndarray, " edge"]


class Order:
    """Rows by position, worked out a window at a time."""

    def __init__(
        self, starts: Int64[np.ndarray, " edge"], seed: int, streams: int = 1, batch: int = 1
    ) -> None:
        """Define an order.

        Args:
            starts: First row of every tar of the split, and at the end the number of rows.
            seed: The run's seed.
            streams: C, which divides the batch.
            batch: Global batch; without effect on the order of one stream.
        """
        assert batch % streams == 0
        self._starts, self._seed, self._streams, self._batch = starts, seed, streams, batch
        self.count = int(starts[-1])
        tars = np.arange(len(starts) - 1)
        self._tars = tars if streams == 1 else permutation(len(tars), key_of(seed, _STREAMS))
        self._sequences: OrderedDict[tuple[int, int], _Sequence] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int, int], Int64[np.ndarray, " row"]] = OrderedDict()

    def rows(self, position: int, count: int) -> Int64[np.ndarray, " row"]:
        """The rows at `count` positions from `position` on, through as many epochs as that takes."""
        parts = [
            self._window(epoch, stream, window)[start:end]
            for epoch, stream, window, start, end in self._spans(position, count)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def epochs(self, position: int, count: int) -> Int64[np.ndarray, " row"]:
        """The epochs that `count` positions from `position` on belong to."""
        return np.arange(position, position + count) // self.count

    def tars_ahead(self, position: int, count: int) -> list[int]:
        """The tars that positions need, and those of the windows that come after theirs."""
        tars: dict[int, None] = {}
        for epoch, stream, window, _, _ in self._spans(position, count):
            sequence = self._sequence(epoch, stream)
            ahead = sequence.windows[window : window + 2]
            if len(ahead) == 1:
                ahead += self._sequence(epoch + 1, stream).windows[:1]
            tars.update((tar, None) for pieces in ahead for tar, _, _ in pieces)
        return list(tars)

    def _spans(self, position: int, count: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Positions as neighbours in windows: (epoch, stream, window, start, end)."""
        part = self._batch // self._streams
        while count:
            epoch, place = divmod(position, self.count)
            together = min(count, self.count - place)
            stream = 0
            if self._streams > 1:
                stream, offset = divmod(position % self._batch, part)
                together = min(together, part - offset)
                place = self._taken(stream, position) - self._taken(stream, epoch * self.count)
            sequence = self._sequence(epoch, stream)
            window = int(np.searchsorted(sequence.edges, place, side="right")) - 1
            start = place - int(sequence.edges[window])
            together = min(together, int(sequence.edges[window + 1]) - place)
            yield epoch, stream, window, start, start + together
            position, count = position + together, count - together

    def _taken(self, stream: int, position: int) -> int:
        """How many positions before one belong to a stream."""
        if self._streams == 1:
            return position
        part = self._batch // self._streams
        batches, rest = divmod(position, self._batch)
        return batches * part + min(max(rest - stream * part, 0), part)

    def _sequence(self, epoch: int, stream: int) -> _Sequence:
        known = self._sequences.get((epoch, stream))
        if known is None:
            known = self._sequences[epoch, stream] = self._arranged(epoch, stream)
            if len(self._sequences) > 2 * self._streams + 2:
                self._sequences.popitem(last=False)
        return known

    def _arranged(self, epoch: int, stream: int) -> _Sequence:
        begin, end = epoch * self.count, (epoch + 1) * self.count
        shares = [self._taken(c, end) - self._taken(c, begin) for c in range(self._streams)]
        first = sum(shares[:stream])
        pieces = self._pieces(first, first + shares[stream])
        words = () if self._streams == 1 else (stream,)
        places = permutation(len(pieces), key_of(self._seed, epoch, _SHARDS, *words))
        shuffled = [pieces[place] for place in places.tolist()]
        windows = [
            shuffled[first : first + WINDOW_SHARDS] for first in range(0, len(shuffled), WINDOW_SHARDS)
        ]
        lengths = [sum(stop - start for _, start, stop in window) for window in windows]
        return _Sequence(windows, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def _pieces(self, first: int, end: int) -> list[Piece]:
        """The part of the tars, one after the other as streams own them, between two of their samples."""
        pieces, place = [], 0
        for tar in self._tars.tolist():
            row, length = int(self._starts[tar]), int(self._starts[tar + 1] - self._starts[tar])
            start, stop = max(first - place, 0), min(end - place, length)
            if start < stop:
                pieces.append((tar, row + start, row + stop))
            place += length
        return pieces

    def _window(self, epoch: int, stream: int, window: int) -> Int64[np.ndarray, " row"]:
        known = self._windows.get((epoch, stream, window))
        if known is None:
            pieces = self._sequence(epoch, stream).windows[window]
            rows = np.concatenate([np.arange(start, end) for _, start, end in pieces])
            words = (window,) if self._streams == 1 else (window, stream)
            known = rows[permutation(len(rows), key_of(self._seed, epoch, _SAMPLES, *words))]
            self._windows[epoch, stream, window] = known
            if len(self._windows) > _WINDOWS_KEPT + 2 * self._streams:
                self._windows.popitem(last=False)
        return known


def epoch_order(starts: Int64[np.ndarray, " edge"], seed: int, epoch: int) -> Int64[np.ndarray, " row"]:
    """The rows of a split in the order of one epoch of one stream.

    Args:
        starts: First row of every tar, and at the end the number of rows.
        seed: The run's seed.
        epoch: Counted from 0.
    """
    order = Order(starts, seed)
    return order.rows(epoch * order.count, order.count)
