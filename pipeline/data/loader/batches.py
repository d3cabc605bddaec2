"""Batches in an order that is known in advance.

Only this file divides data among processes: global step t takes the next `global_batch` positions
of the order, and rank r the r-th of `world_size` equal, contiguous parts of them.
"""

from collections.abc import Generator, Iterator

import numpy as np

from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.loader.prefetch import prefetched
from pipeline.errors import InputError

AHEAD = 3
"""Batches decoded ahead of training."""


def training_batches(
    dataset: ShardedDataset,
    split: str,
    *,
    seed: int,
    global_batch: int,
    samples_seen: int,
    world_rank: int,
    world_size: int,
) -> Generator[Batch]:
    """This process's part of every global batch from `samples_seen` on, without end.

    A thread decodes a few batches ahead; closing the generator ends it.

    Args:
        dataset: What to read.
        split: Which split of it.
        seed: With the epoch, decides the order.
        global_batch: Samples per step over all processes; may be larger than the split.
        samples_seen: Position in the order at which to go on; all there is to resume.
        world_rank: This process.
        world_size: How many there are.

    Raises:
        InputError: If the split is empty or the global batch cannot be divided.
    """
    if global_batch % world_size:
        raise InputError(
            f"train.batch is {global_batch}, which {world_size} processes cannot share equally; "
            f"use {global_batch + -global_batch % world_size} or another number of processes"
        )
    order = dataset.order(split, seed)
    local_batch = global_batch // world_size

    def batches() -> Iterator[Batch]:
        position = samples_seen + world_rank * local_batch
        while True:
            yield dataset.read(split, order.rows(position, local_batch))
            position += global_batch

    return prefetched(batches(), AHEAD)


def sequential_batches(
    dataset: ShardedDataset, split: str, batch: int, limit: int | None = None
) -> Iterator[Batch]:
    """The rows of a split in their stored order; the last batch may be smaller.

    Args:
        dataset: What to read.
        split: Which split of it.
        batch: Samples at once.
        limit: Stop after so many samples.
    """
    count = dataset.length(split) if limit is None else min(limit, dataset.length(split))
    for first in range(0, count, batch):
        yield dataset.read(split, np.arange(first, min(first + batch, count)))
