"""Batches in an order that is known in advance.

Only this file divides data among processes: global step t takes the next `global_batch` positions
of the order, and rank r the r-th of `world_size` equal, contiguous parts of them.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from pipeline.config.objective import Corruption
from pipeline.config.training import Augment, Loading, MixedDataset
from pipeline.data.batch import Batch, PackedBatch
from pipeline.data.loader.arrays import Arrays, Slots
from pipeline.data.loader.augment import Augmentation
from pipeline.data.loader.corrupt import CorruptionProcess
from pipeline.data.loader.dataset import ShardedDataset, packed_batch
from pipeline.data.loader.filling import Filler, Recipe, Task
from pipeline.data.loader.keeping import Keeper
from pipeline.data.loader.mixture import Mixture
from pipeline.data.loader.prefetch import prefetched
from pipeline.data.loader.workers import made_by_workers
from pipeline.errors import InputError

AHEAD = 3
"""Batches decoded ahead of training by a thread."""

AHEAD_PER_WORKER = 2

_REUSED = AHEAD + 3


@dataclass(frozen=True)
class Plan:
    """One process's part of one global batch before it is read.

    Attributes:
        task: How to make it.
        index: Numbers of its samples over all datasets.
        factors: Known factors; None if none is known, or datasets are mixed.
    """

    task: Task
    index: Int64[np.ndarray, " row"]
    factors: Int64[np.ndarray, "row factor"] | None


def training_batches(
    dataset: ShardedDataset,
    split: str,
    *,
    seed: int,
    global_batch: int,
    samples_seen: int,
    world_rank: int,
    world_size: int,
    loading: Loading | None = None,
    augment: Augment | None = None,
    corruption: Corruption | None = None,
    mix: Sequence[MixedDataset] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Generator[PackedBatch]:
    """This process's part of every global batch from `samples_seen` on, without end.

    A thread or worker processes make a few batches ahead; closing the generator ends them.

    Args:
        dataset: What to read.
        split: Which split of it.
        seed: With the epoch, decides the order.
        global_batch: Samples per step over all processes; may be larger than the split.
        samples_seen: Position in the order at which to go on; all there is to resume.
        world_rank: This process.
        world_size: How many there are.
        loading: Worker processes, memory for decoded samples, streams.
        augment: Random changes of each sample.
        corruption: What is done to what encoders see of each sample, the batch's `seen`.
        mix: Other datasets to draw from as well.
        say: Told what a person should know.

    Raises:
        InputError: If the split is empty, the batch cannot be divided, or datasets do not fit together.
    """
    loading, augment, corruption = loading or Loading(), augment or Augment(), corruption or Corruption()
    _refuse_indivisible(global_batch, world_size, loading.streams, mixed=bool(mix))
    mixture = Mixture(
        [dataset, *(ShardedDataset(part.dataset) for part in mix)],
        [1.0, *(part.weight for part in mix)],
        split,
        seed,
        loading.streams,
        global_batch,
    )
    keeper = Keeper(mixture, loading.cache_gib, say)
    local_batch = global_batch // world_size
    recipe = Recipe(
        layout=replace(dataset.store.layout, corrupted=corruption.any),
        rows=local_batch,
        stores=tuple(one.store for one in mixture.datasets),
        kept=keeper.kept,
        augmentation=Augmentation(seed, **augment.model_dump()),
        corruption=(
            CorruptionProcess(seed, len(dataset.info.class_names), **corruption.model_dump())
            if corruption.any
            else None
        ),
    )

    def plans() -> Iterator[Plan]:
        position = samples_seen + world_rank * local_batch
        while True:
            yield _plan(mixture, keeper, position, local_batch)
            position += global_batch

    if loading.workers:
        return _from_workers(plans(), recipe, keeper, loading.workers)
    return prefetched(_made_here(plans(), recipe, keeper), AHEAD)


def sequential_batches(
    dataset: ShardedDataset,
    split: str,
    batch: int,
    limit: int | None = None,
    corruption: CorruptionProcess | None = None,
) -> Iterator[Batch]:
    """The rows of a split in their stored order; the last batch may be smaller.

    Args:
        dataset: What to read.
        split: Which split of it.
        batch: Samples at once.
        limit: Stop after so many samples.
        corruption: What encoders see of them; None: all.
    """
    count = dataset.length(split) if limit is None else min(limit, dataset.length(split))
    for first in range(0, count, batch):
        yield dataset.read(split, np.arange(first, min(first + batch, count)), corruption)


def _plan(mixture: Mixture, keeper: Keeper, position: int, count: int) -> Plan:
    chosen = mixture.at(position, count)
    mixture.expect(position, count)
    task = Task(tuple(keeper.parts(chosen)), chosen.epoch, chosen.sample)
    own = mixture.datasets[0]
    factors = own.factors(mixture.split, chosen.row) if len(mixture.datasets) == 1 else None
    return Plan(task, chosen.sample, factors)


def _made_here(plans: Iterator[Plan], recipe: Recipe, keeper: Keeper) -> Iterator[PackedBatch]:
    memory_bytes = recipe.layout.bytes_for(recipe.rows)
    slots = Slots([bytearray(memory_bytes) for _ in range(_REUSED)])
    with closing(Filler(recipe)) as filler:
        for plan in plans:
            slot = slots.take()
            if slot is None:
                arrays = recipe.layout.arrays(bytearray(memory_bytes), recipe.rows)
            else:
                arrays = slots.lend(recipe.layout, recipe.rows, slot)
            filler.fill(plan.task, arrays)
            keeper.remember(plan.task)
            yield packed_batch(arrays, plan.index, plan.factors)
            del arrays


def _from_workers(
    plans: Iterator[Plan], recipe: Recipe, keeper: Keeper, workers: int
) -> Generator[PackedBatch]:
    ahead = AHEAD_PER_WORKER * workers
    with closing(made_by_workers(plans, recipe, workers, ahead)) as made:
        done: tuple[Plan, Arrays]
        for done in made:
            plan, arrays = done
            keeper.remember(plan.task)
            batch = packed_batch(arrays, plan.index, plan.factors)
            del done, arrays
            yield batch
            del batch


def _refuse_indivisible(global_batch: int, world_size: int, streams: int, *, mixed: bool) -> None:
    if global_batch % world_size:
        raise InputError(
            f"train.batch is {global_batch}, which {world_size} processes cannot share equally; "
            f"use {global_batch + -global_batch % world_size} or another number of processes"
        )
    if global_batch % streams:
        raise InputError(
            f"train.batch is {global_batch}, which train.loading.streams: {streams} does not divide; "
            f"use {global_batch + -global_batch % streams} or another number of streams"
        )
    if mixed and streams > 1:
        raise InputError(
            f"train.loading.streams is {streams}, but with train.mix there is one stream; set it to 1"
        )
