"""`index.parquet` read back: one row per sample, with where its bytes are (its columns: `rows`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.data.shards.description import Description
from pipeline.data.shards.rows import MEMBERS
from pipeline.errors import InputError


def read_index(path: Path) -> pa.Table:
    """Read the index.

    Raises:
        InputError: If it is missing or not an index.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the dataset is incomplete, write it again") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as an index ({error}); write the dataset again") from None
    if missing := {"split", "shard", "key", *(f"{m}_offset" for m in MEMBERS)} - set(table.column_names):
        raise InputError(
            f"{path}: not a dataset's index, it lacks the columns {sorted(missing)}; write it again"
        )
    return table


@dataclass(frozen=True)
class SplitRows:
    """The index of one split as columns; there is no object per sample.

    Attributes:
        key: Keys, an arrow array.
        shard: Number of the tar in the order of `dataset.json`.
        offset: Of each modality's content in the tar; -1 where the sample lacks it.
        size: Its bytes.
        first: Offset of the first modality's content.
        last: End of the last one's.
        starts: First row of every tar, and at the end the number of rows.
        factors: Value index of each known factor; None if none is known.
    """

    key: Any
    shard: Int64[np.ndarray, " row"]
    offset: dict[str, Int64[np.ndarray, " row"]]
    size: dict[str, Int64[np.ndarray, " row"]]
    first: Int64[np.ndarray, " row"]
    last: Int64[np.ndarray, " row"]
    starts: Int64[np.ndarray, " edge"]
    factors: Int64[np.ndarray, "row factor"] | None


def read_splits(path: Path, description: Description) -> dict[str, SplitRows]:
    """Read the index as columns per split.

    Raises:
        InputError: If it is missing, not an index, or not that of `dataset.json`.
    """
    table = read_index(path)
    split = table["split"].cast(pa.string()).combine_chunks()
    number = {name: place for place, name in enumerate(description.shards)}
    names = table["shard"].cast(pa.string()).combine_chunks().dictionary_encode()
    known = names.dictionary.to_pylist()
    if unknown := [name for name in known if name not in number]:
        raise InputError(f"{path}: names {unknown[0]}, which dataset.json does not; write the dataset again")
    shard = np.array([number[name] for name in known], np.int64)[names.indices.to_numpy()]
    splits = {}
    for name, count in description.info.counts.items():
        here = np.flatnonzero(pc.equal(split, name).to_numpy(zero_copy_only=False))
        if len(here) != count:
            raise InputError(
                f"{path}: {len(here)} {name} samples, but dataset.json says {count}; write it again"
            )
        splits[name] = _split_rows(table.take(here), shard[here], description)
    return splits


def _split_rows(table: pa.Table, shard: Int64[np.ndarray, " row"], description: Description) -> SplitRows:
    offset = {m: table[f"{m}_offset"].to_numpy() for m in description.info.modalities}
    size = {m: table[f"{m}_size"].to_numpy() for m in description.info.modalities}
    starts = [np.where(offset[m] < 0, np.iinfo(np.int64).max, offset[m]) for m in offset]
    factors = [
        table[f"factor_{factor.name}"].to_numpy().astype(np.int64) for factor in description.info.factors
    ]
    return SplitRows(
        key=table["key"].combine_chunks(),
        shard=shard,
        offset=offset,
        size=size,
        first=np.min(starts, axis=0),
        last=np.max([offset[m] + size[m] for m in offset], axis=0),
        starts=np.append(np.flatnonzero(np.diff(shard, prepend=-1)), len(shard)),
        factors=np.stack(factors, axis=1) if factors else None,
    )
