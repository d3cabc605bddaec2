"""Reads any rows of a dataset directory."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.loader.order import Order
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo
from pipeline.data.shards.dataset import INDEX, INFO
from pipeline.data.shards.description import Description, read_description
from pipeline.data.shards.index import SplitRows, read_splits
from pipeline.data.shards.members import decode, npy_header
from pipeline.errors import InputError

_OPEN_SHARDS = 64
_DTYPES = {"rgb": np.dtype(np.uint8), "depth": np.dtype(np.float32), "seg": np.dtype(np.uint8)}
_ABSENT: dict[str, float] = {"rgb": 0, "depth": np.nan, "seg": IGNORE_INDEX}


class ShardedDataset:
    """Reads any rows of a dataset directory through its index. Safe to share among threads.

    Attributes:
        info: What the data is.
    """

    def __init__(self, directory: Path) -> None:
        """Open a dataset.

        Raises:
            InputError: If it is incomplete, or a tar is not the one that the index describes.
        """
        self._directory = directory
        description = read_description(directory / INFO)
        self.info: DatasetInfo = description.info
        self._suffix = {m: description.members[m].partition(".")[2] for m in self.info.modalities}
        self._shard_names = list(description.shards)
        _check_shards(directory, description)
        self._splits = read_splits(directory / INDEX, description)
        size = self.info.image_size
        self._shape = {"rgb": (size, size, 3), "depth": (size, size), "seg": (size, size)}
        self._header = {m: npy_header(_DTYPES[m], self._shape[m]) for m in self.info.modalities}
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = Lock()

    def length(self, split: str) -> int:
        """Number of samples in a split; 0 if there is no such split."""
        return len(self._splits[split].shard) if split in self._splits else 0

    def read(self, split: str, rows: Sequence[int] | Int64[np.ndarray, " row"]) -> Batch:
        """Some samples of a split by row number, in the order asked for.

        Raises:
            IndexError: If the split has no such row.
            InputError: If a shard cannot be read or does not hold what the index says.
        """
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.length(split)):
            raise IndexError(
                f"rows {wanted.min()}..{wanted.max()} of {split}, which has {self.length(split)}"
            )
        arrays = {m: np.empty((len(wanted), *self._shape[m]), _DTYPES[m]) for m in self.info.modalities}
        present = {m: np.ones(len(wanted), bool) for m in self.info.modalities}
        if len(wanted):
            for place, row in enumerate(wanted.tolist()):
                self._read_row(self._splits[split], row, place, arrays, present)
            index = self._splits[split]
            keys, factors = index.key.take(wanted).to_pylist(), index.factors
        else:
            keys, factors = [], None
        return Batch(
            modalities={m: _TENSORS[m](arrays[m], present[m]) for m in self.info.modalities},
            key=tuple(keys),
            index=torch.from_numpy(wanted),
            factors=None if factors is None else torch.from_numpy(factors[wanted]),
        )

    def order(self, split: str, seed: int) -> Order:
        """The order in which training reads a split.

        Raises:
            InputError: If the split is empty.
        """
        if not self.length(split):
            raise InputError(f"{self._directory}: there are no {split} samples; it has {self.info.counts}")
        return Order(self._splits[split].starts, seed)

    def _read_row(
        self,
        index: SplitRows,
        row: int,
        place: int,
        arrays: dict[str, Shaped[np.ndarray, "..."]],
        present: dict[str, Bool[np.ndarray, " row"]],
    ) -> None:
        first = int(index.first[row])
        content = self._bytes(int(index.shard[row]), first, int(index.last[row]) - first)
        for modality, array in arrays.items():
            offset, size = int(index.offset[modality][row]), int(index.size[modality][row])
            if offset < 0:
                present[modality][place] = False
                array[place] = _ABSENT[modality]
                continue
            start = offset - first
            header = self._header[modality]
            if self._suffix[modality] == "npy" and content.startswith(header, start):
                stored = np.frombuffer(content, array.dtype, array[place].size, start + len(header))
                array[place] = stored.reshape(array[place].shape)
            else:
                array[place] = self._decode(index, row, modality, content[start : start + size])

    def _decode(self, index: SplitRows, row: int, modality: str, content: bytes) -> Shaped[np.ndarray, "..."]:
        where = f"{self._shard_names[index.shard[row]]}, key {index.key[row]}, {modality}"
        try:
            array = decode(modality, self._suffix[modality], content, self.info.depth_scale_m)
        except Exception as error:
            raise InputError(
                f"{self._directory / where}: cannot be decoded ({error}); write the dataset again"
            ) from error
        if array.shape != self._shape[modality]:
            raise InputError(f"{self._directory / where}: shape {array.shape}, not {self._shape[modality]}")
        return array

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        name = self._directory / self._shard_names[shard]
        with self._lock:
            if shard not in self._files:
                try:
                    self._files[shard] = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise InputError(f"{name}: {error.strerror}; write the dataset again") from error
                if len(self._files) > _OPEN_SHARDS:
                    os.close(self._files.popitem(last=False)[1])
            self._files.move_to_end(shard)
            content = os.pread(self._files[shard], size, offset)
        if len(content) != size:
            raise InputError(f"{name}: ends before byte {offset + size}; write the dataset again")
        return content

    def close(self) -> None:
        """Close the files; they open again when they are needed."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)


def _rgb(array: Shaped[np.ndarray, "row height width 3"], present: Bool[np.ndarray, " row"]) -> ModalityBatch:
    value = np.empty((len(array), 3, *array.shape[1:3]), np.float32)
    np.divide(array.transpose(0, 3, 1, 2), np.float32(255), out=value)
    valid = np.broadcast_to(present[:, None, None], array.shape[:3]).copy()
    return _tensors(value, present, valid)


def _depth(array: Shaped[np.ndarray, "row height width"], present: Bool[np.ndarray, " row"]) -> ModalityBatch:
    valid = np.isfinite(array)
    array[~valid] = 0
    return _tensors(array[:, None], present, valid)


def _seg(array: Shaped[np.ndarray, "row height width"], present: Bool[np.ndarray, " row"]) -> ModalityBatch:
    return _tensors(array.astype(np.int64), present, array != IGNORE_INDEX)


_TENSORS = {"rgb": _rgb, "depth": _depth, "seg": _seg}


def _tensors(
    value: Shaped[np.ndarray, "row ..."],
    present: Bool[np.ndarray, " row"],
    valid: Bool[np.ndarray, "row height width"],
) -> ModalityBatch:
    return ModalityBatch(torch.from_numpy(value), torch.from_numpy(present), torch.from_numpy(valid))


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
