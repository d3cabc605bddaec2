"""What is done for one batch, wherever it is done: read or recall its samples, then change them.

A task says everything; carrying it out needs neither torch nor the index.
"""

import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped

from pipeline.data.loader.arrays import Arrays, Layout
from pipeline.data.loader.augment import Augmentation
from pipeline.data.loader.corrupt import CorruptionProcess
from pipeline.data.loader.places import Places
from pipeline.data.loader.reader import Reader, Store


@dataclass(frozen=True)
class Part:
    """Rows of a batch that come from one place.

    Attributes:
        dataset: Number of the dataset.
        at: Rows of the batch.
        rows: Rows of the dataset's split, in the same order.
        places: Where their bytes are; None for those whose decoded samples are kept in memory.
        keep: Whether to keep the decoded samples.
    """

    dataset: int
    at: Int64[np.ndarray, " row"]
    rows: Int64[np.ndarray, " row"]
    places: Places | None
    keep: bool


@dataclass(frozen=True)
class Task:
    """How to make a batch.

    Attributes:
        parts: Together all of its rows.
        epoch: In which each row is read.
        sample: Number of each row's sample, over all datasets.
    """

    parts: tuple[Part, ...]
    epoch: Int64[np.ndarray, " row"]
    sample: Int64[np.ndarray, " row"]


@dataclass(frozen=True)
class Memory:
    """Memory behind a file descriptor, so that other processes can see it.

    Attributes:
        descriptor: Of a file without a name; gone when the last process closes it.
        size: In bytes; pages nobody wrote to cost nothing.
    """

    descriptor: int
    size: int

    def open(self) -> mmap.mmap:
        """The memory itself."""
        return mmap.mmap(self.descriptor, self.size)


def shared_memory(size: int) -> Memory:
    """New memory that other processes can open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("triptych")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return Memory(descriptor, size)


@dataclass(frozen=True)
class Kept:
    """Decoded samples of a split.

    Attributes:
        memory: Where they are.
        layout: What they look like.
        count: How many there are.
    """

    memory: Memory
    layout: Layout
    count: int

    def arrays(self) -> Arrays:
        """All of them; what was not kept yet is zero."""
        return self.layout.arrays(self.memory.open(), self.count)


@dataclass(frozen=True)
class Recipe:
    """All that tasks refer to.

    Attributes:
        layout: What the batch's samples look like.
        rows: Of a batch.
        stores: The datasets.
        kept: Decoded samples of each; None where they are not kept.
        augmentation: How samples are changed.
        corruption: What encoders see of them then; None: all.
    """

    layout: Layout
    rows: int
    stores: tuple[Store, ...]
    kept: tuple[Kept | None, ...]
    augmentation: Augmentation
    corruption: CorruptionProcess | None = None


class Filler:
    """Carries out tasks."""

    def __init__(self, recipe: Recipe) -> None:
        self._readers = [Reader(store) for store in recipe.stores]
        self._kept = [kept.arrays() if kept else None for kept in recipe.kept]
        self._augmentation, self._corruption = recipe.augmentation, recipe.corruption

    def fill(self, task: Task, arrays: Arrays) -> None:
        """Make a batch.

        Raises:
            InputError: If a tar cannot be read, does not hold what the index says, or cannot be decoded.
        """
        for part in task.parts:
            kept = self._kept[part.dataset]
            if part.places is not None:
                self._readers[part.dataset].fill(part.places, arrays, part.at)
                if part.keep and kept:
                    _copy(arrays, part.at, kept, part.rows)
            elif kept:
                _copy(kept, part.rows, arrays, part.at)
        self._augmentation.apply(arrays, task.epoch, task.sample)
        if self._corruption is not None:
            self._corruption.apply(arrays, task.epoch, task.sample)

    def close(self) -> None:
        """Close the tars."""
        for reader in self._readers:
            reader.store.files.close()


def _copy(
    source: Arrays, rows: Int64[np.ndarray, " row"], target: Arrays, at: Int64[np.ndarray, " row"]
) -> None:
    """Copy rows of one set of arrays to rows of another; a modality the source has not is lacking."""
    whole = len(at) == len(target.key) and bool((np.diff(at) == 1).all())
    for modality, values in target.value.items():
        if modality in source.value:
            _take(source.value[modality], rows, values, at, whole=whole)
            _take(source.present[modality], rows, target.present[modality], at, whole=whole)
        else:
            for row in at.tolist():
                target.lacks(modality, row)
    _take(source.key, rows, target.key, at, whole=whole)


def _take(
    source: Shaped[np.ndarray, "..."],
    rows: Int64[np.ndarray, " row"],
    target: Shaped[np.ndarray, "..."],
    at: Int64[np.ndarray, " row"],
    *,
    whole: bool,
) -> None:
    if whole:
        np.take(source, rows, axis=0, out=target, mode="clip")
    else:
        target[at] = source[rows]
