"""Reads any rows of a dataset directory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from pipeline.data.batch import Batch, PackedBatch
from pipeline.data.loader.arrays import Arrays, Layout
from pipeline.data.loader.files import ShardFiles
from pipeline.data.loader.order import Order
from pipeline.data.loader.places import Places
from pipeline.data.loader.reader import Reader, Store
from pipeline.data.loader.rows import read_rows
from pipeline.data.modality import DatasetInfo
from pipeline.data.shards.dataset import INDEX, INFO
from pipeline.data.shards.description import Description, read_description
from pipeline.errors import InputError


class ShardedDataset:
    """Reads any rows of a dataset directory through its index. Safe to share among threads.

    Attributes:
        info: What the data is.
        store: What it takes to read its samples.
    """

    def __init__(self, directory: Path) -> None:
        """Open a dataset.

        Raises:
            InputError: If it is incomplete, or a tar is not the one that the index describes.
        """
        self._directory = directory
        description = read_description(directory / INFO)
        self.info: DatasetInfo = description.info
        _check_shards(directory, description)
        self._splits = read_rows(directory / INDEX, description)
        self.store = Store(
            files=ShardFiles(directory, tuple(description.shards)),
            layout=Layout(self.info.modalities, self.info.image_size),
            suffix={m: description.members[m].partition(".")[2] for m in self.info.modalities},
            depth_scale_m=self.info.depth_scale_m,
        )
        self._reader = Reader(self.store)

    def __str__(self) -> str:
        return str(self._directory)

    def length(self, split: str) -> int:
        """Number of samples in a split; 0 if there is no such split."""
        return len(self._splits[split]) if split in self._splits else 0

    def read(self, split: str, rows: Sequence[int] | Int64[np.ndarray, " row"]) -> Batch:
        """Some samples of a split by row number, in the order asked for.

        Raises:
            IndexError: If the split has no such row.
            InputError: If a shard cannot be read or does not hold what the index says.
        """
        return self.packed(split, rows).unpack()

    def packed(self, split: str, rows: Sequence[int] | Int64[np.ndarray, " row"]) -> PackedBatch:
        """The same as they are stored.

        Raises:
            IndexError: If the split has no such row.
            InputError: If a shard cannot be read or does not hold what the index says.
        """
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.length(split)):
            raise IndexError(
                f"rows {wanted.min()}..{wanted.max()} of {split}, which has {self.length(split)}"
            )
        arrays = self.store.layout.arrays(bytearray(self.store.layout.bytes_for(len(wanted))), len(wanted))
        if len(wanted):
            self._reader.fill(self.places(split, wanted), arrays, np.arange(len(wanted)))
        return packed_batch(arrays, wanted, self.factors(split, wanted))

    def places(self, split: str, rows: Int64[np.ndarray, " row"]) -> Places:
        """Where the bytes of some rows are, in tars that are what they should be.

        Raises:
            InputError: If one of the tars is not the one that the index describes.
        """
        return self._splits[split].places(rows)

    def factors(self, split: str, rows: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, "row factor"] | None:
        """Known factors of some rows; None if none is known."""
        known = self._splits[split].factors if len(rows) else None
        return None if known is None else known[rows].astype(np.int64)

    def order(self, split: str, seed: int, streams: int = 1, batch: int = 1) -> Order:
        """The order in which training reads a split.

        Raises:
            InputError: If the split is empty.
        """
        if not self.length(split):
            raise InputError(f"{self}: there are no {split} samples; it has {self.info.counts}")
        return Order(self._splits[split].starts, seed, streams, batch)

    def close(self) -> None:
        """Close the files; they open again when they are needed."""
        self.store.files.close()


def packed_batch(
    arrays: Arrays, index: Int64[np.ndarray, " row"], factors: Int64[np.ndarray, "row factor"] | None
) -> PackedBatch:
    """Arrays as tensors that share their memory."""
    return PackedBatch(
        value={name: torch.from_numpy(array) for name, array in arrays.value.items()},
        has={name: torch.from_numpy(array) for name, array in arrays.present.items()},
        key=arrays.keys(),
        index=torch.from_numpy(index),
        factors=None if factors is None else torch.from_numpy(factors),
    )


def _check_shards(directory: Path, description: Description) -> None:
    for name, shard in description.shards.items():
        path = directory / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; the dataset is incomplete, write it again") from None
        if size != shard.bytes:
            raise InputError(
                f"{path}: {size} bytes, but its index was made for {shard.bytes}; write the dataset again"
            )
