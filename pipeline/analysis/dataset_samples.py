"""A few samples of a dataset, evenly spread over each split and read one after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from pipeline.analysis.dataset_index import Index, read_rows
from pipeline.data.loader.location import local_tars
from pipeline.data.modality import Sample
from pipeline.data.shards.description import Description
from pipeline.data.shards.members import decode

FEWEST = 16
"""Samples that are looked at of a split, however small its share of the dataset is."""


@dataclass(frozen=True)
class Damage:
    """Something of a dataset that cannot be used.

    Attributes:
        where: The tar, or the tar and the key.
        what: What is wrong.
    """

    where: str
    what: str


def evenly_spread(count: int, wanted: int) -> Int64[np.ndarray, " place"]:
    """So many of the numbers below `count`, ascending, at equal distances; all when there are no more."""
    wanted = min(count, wanted)
    return (np.arange(wanted, dtype=np.int64) * 2 + 1) * count // max(1, 2 * wanted)


def shares(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """How many samples of each split to look at: all, or about `limit` in proportion to its size."""
    total = sum(counts.values())
    if total <= limit:
        return dict(counts)
    return {
        split: min(count, max(min(FEWEST, limit), limit * count // total)) for split, count in counts.items()
    }


def chosen_rows(index: Index, wanted: Mapping[str, int]) -> Int64[np.ndarray, " row"]:
    """Row numbers of so many samples of each split, ascending."""
    parts = [
        index.rows(split)[evenly_spread(counts.samples, wanted.get(split, 0))]
        for split, counts in index.splits.items()
    ]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))


def read_samples(
    directory: Path, description: Description, wanted: Int64[np.ndarray, " row"]
) -> Iterator[tuple[str, Sample] | Damage]:
    """Split and sample of every row, in order; what cannot be read is said instead.

    Nothing comes of tars behind a URL: to look at a few samples of each would fetch them all.

    Raises:
        InputError: If the index cannot be read.
    """
    tars = local_tars(directory)
    if tars is None:
        return
    rows = read_rows(directory, wanted)
    for shard, members in groupby(rows, key=lambda row: str(row["shard"])):
        if Path(shard).name != shard or shard not in description.shards:
            yield Damage(shard, "the index names it, dataset.json does not")
            continue
        try:
            with (tars / shard).open("rb") as file:
                for row in members:
                    yield _sample(file, row, description)
        except OSError as error:
            yield Damage(shard, str(error.strerror or error))


def _sample(file: IO[bytes], row: Mapping[str, Any], description: Description) -> tuple[str, Sample] | Damage:
    arrays: dict[str, Any] = {}
    for modality in description.info.modalities:
        offset, size = row[f"{modality}_offset"], row[f"{modality}_size"]
        if offset < 0:
            continue
        file.seek(offset)
        suffix = description.members[modality].partition(".")[2]
        try:
            array = decode(modality, suffix, file.read(size), description.info.depth_scale_m)
        except Exception as error:  # noqa: BLE001 (whatever a decoder makes of damaged bytes)
            return Damage(f"{row['shard']}, {row['key']}", f"{modality} cannot be decoded: {error}")
        if array.shape[:2] != (description.info.image_size,) * 2:
            shape = " x ".join(str(side) for side in array.shape)
            return Damage(
                f"{row['shard']}, {row['key']}",
                f"{modality} is {shape}, not {description.info.image_size} square",
            )
        arrays[modality] = array
    return row["split"], Sample(row["key"], arrays.get("rgb"), arrays.get("depth"), arrays.get("seg"))


def damaged_shards(directory: Path, description: Description) -> Sequence[Damage]:
    """Tars that are missing or have another size than `dataset.json` says; none of those behind a URL."""
    tars = local_tars(directory)
    if tars is None:
        return ()
    found = []
    for name, shard in description.shards.items():
        try:
            size = (tars / name).stat().st_size
        except OSError as error:
            found.append(Damage(name, str(error.strerror or error)))
            continue
        if size != shard.bytes:
            found.append(Damage(name, f"{size} bytes, but dataset.json says {shard.bytes}"))
    return found
