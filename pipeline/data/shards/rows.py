"""What is known of every sample of a part while it is written, as the columns of a table.

`index.parquet` has a row per sample, in the order train, val, test, heldout and within a split in the order
of the tars. Its columns:

    split, shard (file name), key
    <name>_offset, <name>_size for rgb, depth, seg and json: where the bytes are (-1 and 0 without)
    factor_<name> for each known factor
    content           64 bits of a hash over all pixels
    look              128 bits of a hash of what the RGB looks like; null without RGB
    depth_median_m    NaN without depth

A part's rows hold a few columns more, which the merge sums up and leaves out.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.columns import fixed_binaries, numbers, texts
from pipeline.data.modality import MODALITIES
from pipeline.data.shards.encoded import EncodedSample
from pipeline.data.shards.fingerprint import LOOK_BYTES, key_hash
from pipeline.data.statistics import DEPTH_SUMS

MEMBERS = (*MODALITIES, "json")
PLACES = tuple(f"{member}_{what}" for member in MEMBERS for what in ("offset", "size"))

_WORDS = {"count": "q"}


class PartRows:
    """The rows of one split of a part, in the order they are written."""

    def __init__(self, factors: Sequence[str]) -> None:
        self._factors = tuple(factors)
        self._keys: list[str] = []
        self._looks: list[bytes | None] = []
        self._numbers: dict[str, array[Any]] = {name: array("q") for name in PLACES}
        self._numbers |= {f"factor_{name}": array("h") for name in self._factors}
        self._numbers |= {"content": array("Q"), "depth_median_m": array("f")}
        self._numbers |= {"key_hash": array("Q"), "largest_label": array("h")}
        self._numbers |= {f"depth_{name}": array(_WORDS.get(name, "d")) for name in DEPTH_SUMS}

    def add(self, sample: EncodedSample, places: dict[str, tuple[int, int]]) -> None:
        """Append a sample with (offset, size) per member."""
        self._keys.append(sample.key)
        self._looks.append(sample.look)
        numbers: dict[str, float] = {}
        for member in MEMBERS:
            numbers[f"{member}_offset"], numbers[f"{member}_size"] = places.get(member, (-1, 0))
        for name in self._factors:
            numbers[f"factor_{name}"] = (sample.factors or {})[name]
        numbers |= {"content": sample.content, "depth_median_m": sample.depth_median_m}
        numbers |= {"key_hash": key_hash(sample.key), "largest_label": max(sample.labels, default=-1)}
        for name in DEPTH_SUMS:
            numbers[f"depth_{name}"] = getattr(sample.depth, name)
        for name, column in self._numbers.items():
            column.append(numbers[name])

    def table(self) -> pa.Table:
        """The rows as a table."""
        columns = {"key": texts(self._keys, pa.string())}
        columns |= {name: numbers(np.array(column)) for name, column in self._numbers.items()}
        columns["look"] = fixed_binaries(self._looks, LOOK_BYTES)
        return pa.table(columns)


def index_schema(factors: Sequence[str]) -> pa.Schema:
    """The columns of `index.parquet`."""
    named = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([
        ("split", named),
        ("shard", named),
        ("key", pa.string()),
        *((name, pa.int64()) for name in PLACES),
        *((f"factor_{name}", pa.int16()) for name in factors),
        ("content", pa.uint64()),
        ("look", pa.binary(LOOK_BYTES)),
        ("depth_median_m", pa.float32()),
    ])
