"""Reads any rows of a dataset directory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from pipeline.data.batch import Batch, PackedBatch
from pipeline.data.loader.arrays import Arrays, Layout
from pipeline.data.loader.copies import Copies
from pipeline.data.loader.corrupt import CorruptionProcess
from pipeline.data.loader.fetching import Fetching
from pipeline.data.loader.files import ShardFiles
from pipeline.data.loader.location import located
from pipeline.data.loader.order import Order
from pipeline.data.loader.places import Places
from pipeline.data.loader.reader import Reader, Store
from pipeline.data.loader.rows import read_rows
from pipeline.data.loader.verified import Verified
from pipeline.data.modality import DatasetInfo
from pipeline.data.shards.dataset import INDEX, INFO
from pipeline.data.shards.description import read_description
from pipeline.errors import InputError


class ShardedDataset:
    """Reads any rows of a dataset directory through its index. Safe to share among threads.

    Attributes:
        info: What the data is.
        store: What it takes to read its samples.
    """

    def __init__(self, place: Path | str, cache: Path | None = None, cache_gib: float = 50.0) -> None:
        """Open a dataset; its tars are looked at, and read whole when they are first needed.

        Args:
            place: A dataset directory, or the URL of one.
            cache: Where copies of remote tars lie; None: in this person's cache directory.
            cache_gib: How large that may become.

        Raises:
            InputError: If it is incomplete, or a tar has not the size that the index was made for.
        """
        directory, location = located(place, cache, cache_gib)
        self._name = str(place)
        description = read_description(directory / INFO)
        self.info: DatasetInfo = description.info
        tars = location.copies() if location.is_remote else Path(location.shards)
        self._shards = list(description.shards.items())
        self._verified = Verified(tars)
        self._right = np.zeros(len(self._shards), bool)
        if not location.is_remote:
            self._right[:] = [self._verified.is_known(name, shard) for name, shard in self._shards]
        self._splits = read_rows(directory / INDEX, description)
        self._copies = Copies(location, description.shards) if location.is_remote else None
        self._fetching = Fetching(self._copies, self._verified) if self._copies else None
        self.store = Store(
            files=ShardFiles(tars, tuple(description.shards), self._copies),
            layout=Layout(self.info.modalities, self.info.image_size),
            suffix={m: description.members[m].partition(".")[2] for m in self.info.modalities},
            depth_scale_m=self.info.depth_scale_m,
        )
        self._reader = Reader(self.store)

    def __str__(self) -> str:
        return self._name

    @property
    def is_remote(self) -> bool:
        """Whether its tars are fetched when they are needed."""
        return self._fetching is not None

    def length(self, split: str) -> int:
        """Number of samples in a split; 0 if there is no such split."""
        return len(self._splits[split]) if split in self._splits else 0

    def read(
        self,
        split: str,
        rows: Sequence[int] | Int64[np.ndarray, " row"],
        corruption: CorruptionProcess | None = None,
    ) -> Batch:
        """Some samples of a split by row number, in the order asked for.

        Args:
            split: Which split.
            rows: Which rows of it.
            corruption: What encoders see of them (as in epoch 0); None: all.

        Raises:
            IndexError: If the split has no such row.
            InputError: If a shard cannot be read or does not hold what the index says.
        """
        return self.packed(split, rows, corruption).unpack()

    def packed(
        self,
        split: str,
        rows: Sequence[int] | Int64[np.ndarray, " row"],
        corruption: CorruptionProcess | None = None,
    ) -> PackedBatch:
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
        layout = replace(self.store.layout, corrupted=corruption is not None)
        arrays = layout.arrays(bytearray(layout.bytes_for(len(wanted))), len(wanted))
        if len(wanted):
            self._reader.fill(self.places(split, wanted), arrays, np.arange(len(wanted)))
            if corruption is not None:
                corruption.apply(arrays, np.zeros_like(wanted), wanted)
        return packed_batch(arrays, wanted, self.factors(split, wanted))

    def places(self, split: str, rows: Int64[np.ndarray, " row"]) -> Places:
        """Where the bytes of some rows are, in tars that are what they should be.

        Raises:
            InputError: If one of the tars is not the one that the index describes.
        """
        places = self._splits[split].places(rows)
        for shard in np.unique(places.shard[~self._right[places.shard]]).tolist():
            name, expected = self._shards[shard]
            if self._fetching:
                self._fetching.wait_for(name)
            else:
                self._verified.verify(name, expected)
            self._right[shard] = True
        return places

    def expect(self, split: str, tars: Sequence[int]) -> None:
        """Begin to fetch tars (of a split, by number) that will be needed, if they are elsewhere."""
        if self._fetching:
            shards = self._splits[split].shards
            self._fetching.expect([self._shards[int(shards[tar])][0] for tar in tars])

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
        if self._fetching:
            self._fetching.close()


def packed_batch(
    arrays: Arrays, index: Int64[np.ndarray, " row"], factors: Int64[np.ndarray, "row factor"] | None
) -> PackedBatch:
    """Arrays as tensors that share their memory."""
    seen = None if arrays.seen is None else packed_batch(arrays.seen, index, factors)
    return PackedBatch(
        value={name: torch.from_numpy(array) for name, array in arrays.value.items()},
        has={name: torch.from_numpy(array) for name, array in arrays.present.items()},
        key=arrays.keys(),
        index=torch.from_numpy(index),
        factors=None if factors is None else torch.from_numpy(factors),
        seen=seen,
    )
