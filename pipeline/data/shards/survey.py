"""All samples of all parts as a few columns of numbers: what can only be judged over the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64

from pipeline.data.columns import fixed_binaries_of, numbers, numbers_of
from pipeline.data.modality import SPLITS
from pipeline.data.shards.parts import Part

_COLUMNS = ("key_hash", "content", "look", "depth_median_m", "rgb_offset", "depth_offset")


@dataclass(frozen=True)
class Block:
    """The rows of one split of one part: neighbours in the survey."""

    part: Part
    split: str
    first: int
    count: int


@dataclass(frozen=True)
class Survey:
    """A row per sample, part by part, about 40 bytes each.

    Attributes:
        blocks: Which rows are whose.
        split: Number in `SPLITS`.
        key_hash: Of the sample's key.
        content: Of all its pixels.
        look: Of its RGB, as two words; zeros without.
        depth_median_m: NaN without depth.
        pictured: Whether it has more than labels.
    """

    blocks: tuple[Block, ...]
    split: UInt8[np.ndarray, " row"]
    key_hash: UInt64[np.ndarray, " row"]
    content: UInt64[np.ndarray, " row"]
    look: UInt64[np.ndarray, "row 2"]
    depth_median_m: Float32[np.ndarray, " row"]
    pictured: Bool[np.ndarray, " row"]

    def keys(self, rows: Int64[np.ndarray, " some"]) -> dict[int, str]:
        """The keys of some rows, read from the parts that have them."""
        keys: dict[int, str] = {}
        wanted = np.unique(rows)
        for block in self.blocks:
            here = wanted[
                np.searchsorted(wanted, block.first) : np.searchsorted(wanted, block.first + block.count)
            ]
            if len(here):
                stored = (
                    block.part.rows(block.split, ["key"])["key"].take(numbers(here - block.first)).to_pylist()
                )
                keys.update(zip(here.tolist(), stored, strict=True))
        return keys


def survey(parts: Sequence[Part]) -> Survey:
    """Read what is known of every sample.

    Raises:
        ValueError: If two samples have the same key.
    """
    blocks: list[Block] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("split", *_COLUMNS, "pictured")}
    first = 0
    for part in parts:
        for split in part.tars:
            table = part.rows(split, list(_COLUMNS))
            blocks.append(Block(part, split, first, table.num_rows))
            first += table.num_rows
            columns["split"].append(np.full(table.num_rows, SPLITS.index(split), np.uint8))
            for name in ("key_hash", "content", "depth_median_m"):
                columns[name].append(numbers_of(table[name]))
            columns["look"].append(_words(table["look"]))
            columns["pictured"].append(
                (numbers_of(table["rgb_offset"]) >= 0) | (numbers_of(table["depth_offset"]) >= 0)
            )
    found = Survey(
        tuple(blocks),
        split=_joined(columns["split"], np.uint8),
        key_hash=_joined(columns["key_hash"], np.uint64),
        content=_joined(columns["content"], np.uint64),
        look=_joined(columns["look"], np.uint64, 2),
        depth_median_m=_joined(columns["depth_median_m"], np.float32),
        pictured=_joined(columns["pictured"], np.bool_),
    )
    _check_keys(found)
    return found


def _words(looks: pa.ChunkedArray) -> UInt64[np.ndarray, "row 2"]:
    return fixed_binaries_of(looks).view(">u8").astype(np.uint64)


def _joined(parts: list[Any], dtype: Any, *shape: int) -> Any:
    return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype)


def _check_keys(found: Survey) -> None:
    order = np.argsort(found.key_hash, kind="stable")
    same = np.flatnonzero(np.diff(found.key_hash[order]) == 0)
    suspects = np.unique(np.concatenate([order[same], order[same + 1]])) if len(same) else same
    seen: set[str] = set()
    for key in found.keys(suspects).values():
        if key in seen:
            raise ValueError(f"two samples have the key {key!r}; keys are unique, rename one of them")
        seen.add(key)
