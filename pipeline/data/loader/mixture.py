"""Several datasets as one: which sample of which dataset stands at a position of the order.

Positions come in blocks of 1,024. A block holds fixed numbers of samples of each dataset, the weights
rounded by largest remainders, in an order drawn by (seed, block). Within its positions each dataset
keeps the order it has alone, so nothing is dropped or repeated before its own epoch ends, and any
position can be worked out without those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pipeline.data.hashing import key_of, permutation
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.loader.order import Order
from pipeline.data.modality import DatasetInfo
from pipeline.errors import InputError

BLOCK_POSITIONS = 1024
_BLOCKS = 4


@dataclass(frozen=True)
class Chosen:
    """Samples by position.

    Attributes:
        dataset: Number of each one's dataset.
        row: Row of its split.
        epoch: How often the dataset was read before.
        sample: Number of the sample over all datasets.
    """

    dataset: Int64[np.ndarray, " row"]
    row: Int64[np.ndarray, " row"]
    epoch: Int64[np.ndarray, " row"]
    sample: Int64[np.ndarray, " row"]


class Mixture:
    """One split of one or more datasets.

    Attributes:
        datasets: The run's own first.
        split: Which split of them.
        orders: The order of each.
    """

    def __init__(
        self,
        datasets: Sequence[ShardedDataset],
        weights: Sequence[float],
        split: str,
        seed: int,
        streams: int = 1,
        batch: int = 1,
    ) -> None:
        """Mix datasets.

        Raises:
            InputError: If they do not fit together, one has no such split, or a weight is too small.
        """
        for other in datasets[1:]:
            refuse_difference(datasets[0], other)
        self.datasets, self.split = tuple(datasets), split
        self.orders: tuple[Order, ...] = tuple(
            dataset.order(split, seed, streams, batch) for dataset in datasets
        )
        self._seed = seed
        self._counts = shares(weights, BLOCK_POSITIONS)
        if 0 in self._counts:
            poor = self._counts.index(0)
            raise InputError(
                f"train.mix: the weight {weights[poor]:g} of {datasets[poor]} is less than one sample in "
                f"{BLOCK_POSITIONS}; raise it or leave the dataset out"
            )
        lengths = [dataset.length(split) for dataset in datasets]
        self._first_sample = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    def __len__(self) -> int:
        """Samples of all datasets."""
        return sum(order.count for order in self.orders)

    def at(self, position: int, count: int) -> Chosen:
        """The samples at `count` positions from `position` on."""
        dataset = self._datasets_at(position, count)
        row, epoch = np.empty(count, np.int64), np.empty(count, np.int64)
        for number, order in enumerate(self.orders):
            here = np.flatnonzero(dataset == number)
            first = self._taken(number, position)
            row[here] = order.rows(first, len(here))
            epoch[here] = order.epochs(first, len(here))
        return Chosen(dataset, row, epoch, row + self._first_sample[dataset])

    def expect(self, position: int, count: int) -> None:
        """Begin to fetch the tars that positions need, and those that come after them."""
        if not any(dataset.is_remote for dataset in self.datasets):
            return
        chosen = self._datasets_at(position, count)
        for number, (dataset, order) in enumerate(zip(self.datasets, self.orders, strict=True)):
            here = int((chosen == number).sum())
            if here:
                dataset.expect(self.split, order.tars_ahead(self._taken(number, position), here))

    def _datasets_at(self, position: int, count: int) -> Int64[np.ndarray, " row"]:
        if len(self.datasets) == 1:
            return np.zeros(count, np.int64)
        first, last = position // BLOCK_POSITIONS, (position + count - 1) // BLOCK_POSITIONS
        blocks = np.concatenate([self._block(block) for block in range(first, last + 1)])
        start = position - first * BLOCK_POSITIONS
        return blocks[start : start + count]

    def _taken(self, number: int, position: int) -> int:
        """How many positions before one hold samples of a dataset."""
        if len(self.datasets) == 1:
            return position
        block, rest = divmod(position, BLOCK_POSITIONS)
        return block * self._counts[number] + int((self._block(block)[:rest] == number).sum())

    def _block(self, block: int) -> Int64[np.ndarray, " position"]:
        numbers = np.repeat(np.arange(len(self._counts)), self._counts)
        return numbers[permutation(BLOCK_POSITIONS, key_of(self._seed, block, _BLOCKS))]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to weights that add up to a total, by largest remainders."""
    exact = [weight / sum(weights) * total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def refuse_difference(own: ShardedDataset, other: ShardedDataset) -> None:
    """Refuse a dataset that cannot be mixed with the run's own.

    Raises:
        InputError: Naming what differs.
    """
    if difference := _difference(own.info, other.info):
        raise InputError(f"train.mix: {other} cannot be mixed with {own}: {difference}")


def _difference(own: DatasetInfo, other: DatasetInfo) -> str | None:
    if own.image_size != other.image_size:
        return (
            f"its pictures are {other.image_size} px, the run's are {own.image_size} px; "
            "set data.image_size alike and write one of them again"
        )
    if more := [modality for modality in other.modalities if modality not in own.modalities]:
        return f"it has {' and '.join(more)}, which the run's dataset lacks"
    if "seg" in other.modalities and own.class_names != other.class_names:
        pairs = enumerate(zip(own.class_names, other.class_names, strict=False))
        for number, (ours, theirs) in pairs:
            if ours != theirs:
                return f"its class {number} is {theirs}, the run's is {ours}"
        return f"it has {len(other.class_names)} classes, the run's has {len(own.class_names)}"
    return None
