"""A dataset at a glance, in numbers: what `triptych inspect` says and `shard` records."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.dataset_duplicates import Duplicates, find_duplicates
from pipeline.analysis.dataset_index import Index, read_index
from pipeline.analysis.dataset_pixels import Pixels, count_pixels
from pipeline.analysis.dataset_samples import Damage, chosen_rows, damaged_shards, read_samples, shares
from pipeline.data.shards.dataset import INFO, QUARANTINE
from pipeline.data.shards.description import Description, read_description
from pipeline.errors import InputError

Item = TypeVar("Item")


@runtime_checkable
class Watcher(Protocol):
    """Whoever shows how far we are."""

    def track(self, items: Iterable[Item], label: str, total: int, unit: str = "") -> Iterator[Item]:
        """Pass items on, showing how many have passed."""


@dataclass(frozen=True)
class Reason:
    """Samples that were refused alike.

    Attributes:
        reason: The code.
        count: How many.
        origin: One of them, as the source calls it.
        detail: What is wrong with it.
        remedy: What its owner can do.
    """

    reason: str
    count: int
    origin: str
    detail: str
    remedy: str


@dataclass(frozen=True)
class Survey:
    """All that is said about a dataset.

    Attributes:
        directory: Where it is.
        description: All of `dataset.json`.
        index: Every sample, summed up.
        quarantine: What was refused, most frequent first.
        duplicates: What is there more than once.
        pixels: Of the samples that were looked at.
        damage: What cannot be used although it should.
    """

    directory: Path
    description: Description
    index: Index
    quarantine: tuple[Reason, ...]
    duplicates: Duplicates
    pixels: Pixels
    damage: tuple[Damage, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every sample was looked at."""
        return sum(self.pixels.samples.values()) == len(self.index.split_of)


def survey(directory: Path, limit: int, watcher: Watcher) -> Survey:
    """Read a dataset's index, and look at some of its samples.

    Args:
        directory: The dataset.
        limit: About how many samples are decoded, evenly spread; the index is read whole.
        watcher: Shows how far we are.

    Raises:
        InputError: If the directory holds no dataset, or its index is damaged.
    """
    description = read_description(directory / INFO)
    index = read_index(directory, description)
    rows = chosen_rows(index, shares({name: split.samples for name, split in index.splits.items()}, limit))
    samples = read_samples(directory, description, rows)
    pixels = count_pixels(description.info, watcher.track(samples, "look at samples", len(rows), "samples"))
    return Survey(
        directory=directory,
        description=description,
        index=index,
        quarantine=_reasons(directory / QUARANTINE),
        duplicates=find_duplicates(directory, index),
        pixels=pixels,
        damage=(*damaged_shards(directory, description), *pixels.damage),
    )


def _reasons(path: Path) -> tuple[Reason, ...]:
    """How often each reason occurs, with the first example.

    Raises:
        InputError: If there is no table of refused samples.
    """
    columns = ["reason", "origin", "detail", "remedy"]
    counts: Counter[str] = Counter()
    first: dict[str, dict[str, str]] = {}
    try:
        with pq.ParquetFile(path) as file:
            for rows in file.iter_batches(columns=columns):
                for row in rows.to_pylist():
                    counts[row["reason"]] += 1
                    first.setdefault(row["reason"], row)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the dataset is incomplete, write it again") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}); write the dataset again") from None
    return tuple(
        Reason(reason, count, first[reason]["origin"], first[reason]["detail"], first[reason]["remedy"])
        for reason, count in counts.most_common()
    )


def survey_metrics(found: Survey) -> dict[str, float]:
    """What of a survey is worth comparing between datasets, as flat metrics.

    `missing/depth` and `classes/cup` are shares: of all samples, and of the labelled pixels looked at.
    """
    total = max(1, len(found.index.split_of))
    metrics = {
        f"missing/{modality}": sum(split.missing[modality] for split in found.index.splits.values()) / total
        for modality in found.description.info.modalities
    }
    pixels = class_pixels(found)
    names = found.description.info.class_names
    if labelled := sum(pixels):
        metrics |= {f"classes/{name}": count / labelled for name, count in zip(names, pixels, strict=True)}
    if found.pixels.depth:
        depth = found.pixels.depth
        metrics["depth/valid_share"] = depth.valid / depth.pixels
        metrics |= {f"depth/p{share * 100:02.0f}_m": value for share, value in depth.quantiles_m.items()}
    equal = found.duplicates.equal
    return metrics if equal is None else metrics | {"duplicates": float(equal.samples - equal.sets)}


def class_pixels(found: Survey) -> list[int]:
    """Labelled pixels of each class in the samples looked at, all splits together."""
    return [
        sum(split[label].pixels for split in found.pixels.classes.values())
        for label in range(len(found.description.info.class_names))
    ]


def shard_sizes(found: Survey) -> dict[str, int]:
    """Number of tars and bytes of the smallest, the median and the largest."""
    sizes = [shard.bytes for shard in found.description.shards.values()]
    return {
        "count": len(sizes),
        "smallest": min(sizes),
        "median": round(median(sizes)),
        "largest": max(sizes),
        "total": sum(sizes),
    }


def bytes_per_sample(found: Survey) -> dict[str, float]:
    """Stored bytes of a modality, on average over the samples that have it."""
    splits = found.index.splits.values()
    means = {}
    for modality in found.description.info.modalities:
        have = sum(split.samples - split.missing[modality] for split in splits)
        means[modality] = sum(split.bytes[modality] for split in splits) / max(1, have)
    return means


def survey_json(found: Survey) -> dict[str, Any]:
    """Everything, for programs."""
    info = found.description.info
    depth = found.pixels.depth
    return {
        "directory": str(found.directory),
        "source": info.source,
        "image_size": info.image_size,
        "modalities": list(info.modalities),
        "class_names": list(info.class_names),
        "splits": {
            name: {"samples": split.samples, "missing": split.missing}
            for name, split in found.index.splits.items()
        },
        "storage": {
            "members": found.description.members,
            "depth_scale_m": info.depth_scale_m,
            "bytes_per_sample": bytes_per_sample(found),
            "shards": shard_sizes(found),
        },
        "looked_at": {"samples": found.pixels.samples, "all": found.is_complete},
        "classes": _class_rows(found),
        "unlabelled_pixels": found.pixels.unlabelled,
        "depth": None
        if depth is None
        else asdict(depth)
        | {"quantiles_m": {f"p{share * 100:02.0f}": value for share, value in depth.quantiles_m.items()}},
        "factors": _factor_rows(found),
        "duplicates": asdict(found.duplicates),
        "quarantine": [asdict(reason) for reason in found.quarantine],
        "damage": [asdict(damage) for damage in found.damage],
    }


def _class_rows(found: Survey) -> list[dict[str, Any]]:
    return [
        {"label": label, "name": name}
        | {split: asdict(classes[label]) for split, classes in found.pixels.classes.items()}
        for label, name in enumerate(found.description.info.class_names)
    ]


def _factor_rows(found: Survey) -> dict[str, Any]:
    factors = found.description.info.factors
    if not factors:
        return {}
    possible = 1
    for factor in factors:
        possible *= max(1, len(factor.values))
    return {
        "combinations": {"seen": found.index.combinations, "possible": possible},
        "values": {
            factor.name: {
                value: {name: split.factors[factor.name][place] for name, split in found.index.splits.items()}
                for place, value in enumerate(factor.values)
            }
            for factor in factors
            if factor.values
        },
    }
