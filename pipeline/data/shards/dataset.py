"""A dataset directory: tars in the WebDataset format, a byte index over them, and what they hold.

Samples are written in the order they come; the loader shuffles. What is written is a function of
the samples alone (no dates, no owners), so the same input gives the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.modality import MODALITIES, SPLITS, DatasetInfo, Factor, Sample, SplitName
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.shards.description import read_description
from pipeline.data.shards.encoded import EncodedSample, encode
from pipeline.data.shards.members import decode, encodings_for
from pipeline.data.shards.merge import INDEX, INFO, QUARANTINE, Facts, merge
from pipeline.data.shards.parts import PARTS, PartWriter
from pipeline.data.shards.tally import Tally
from pipeline.errors import InputError

__all__ = [
    "INDEX",
    "INFO",
    "QUARANTINE",
    "dataset_digest",
    "decode_sample",
    "read_info",
    "write_dataset",
    "write_part",
]


def write_dataset(
    directory: Path,
    samples: Iterable[tuple[SplitName, Sample | EncodedSample] | Refusal],
    *,
    class_names: Sequence[str] | None,
    image_size: int,
    encoding: str | Mapping[str, str] = "auto",
    shard_samples: int = 1000,
    factors: Sequence[Factor] = (),
    source: dict[str, Any] | None = None,
    depth_scale_m: float = 0.001,
) -> DatasetInfo:
    """Write a dataset directory from samples in the order they come.

    Args:
        directory: Made if it is missing; must not hold a dataset already.
        samples: Each with its split; or what was refused instead of a sample.
        class_names: In the order of the labels; None names them by number, up to the largest seen.
        image_size: Height and width of every sample.
        encoding: `auto`, `npy`, `npy.zst` or `png`, or one of them per modality.
        shard_samples: Samples per tar.
        factors: The known factors, which every sample then has.
        source: How the data came about, for people.
        depth_scale_m: Metres per unit of a depth PNG.

    Raises:
        InputError: If the directory already holds a dataset or cannot be written, or no sample came.
        ValueError: If a key is repeated or has other characters than `[A-Za-z0-9_-]`, or a sample
            has another size or no modality.
    """
    if (directory / INFO).exists():
        raise InputError(f"{directory} already holds a dataset; name another directory or delete it")
    suffixes = encodings_for(encoding, image_size)
    facts = Facts(
        class_names,
        image_size,
        tuple(factors),
        depth_scale_m,
        source=source or {},
        shard_samples=shard_samples,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(directory / PARTS, ignore_errors=True)
        with _Parts(directory, shard_samples, [factor.name for factor in factors]) as parts:
            for item in _encoded(samples, image_size, suffixes, depth_scale_m):
                parts.add(item)
        return merge(directory, facts, Tally(parts.total)).info
    except OSError as error:
        raise InputError(
            f"{error.filename or directory}: the dataset cannot be written: {error.strerror or error}; "
            "free some space or write elsewhere"
        ) from error


def write_part(
    directory: Path,
    number: int,
    samples: Iterable[tuple[SplitName, Sample]],
    *,
    image_size: int,
    depth_scale_m: float,
) -> None:
    """Write one part of a dataset that several processes share; `merge` makes the dataset of all of them.

    Args:
        directory: Where the dataset is made.
        number: Which part; samples are in the order of the parts.
        samples: Each with its split.
        image_size: Height and width of every sample.
        depth_scale_m: Metres per unit of a depth PNG.

    Raises:
        ValueError: If a sample has another size or no modality.
    """
    suffixes = encodings_for("auto", image_size)
    with PartWriter(directory, number, ()) as part:
        for item in _encoded(samples, image_size, suffixes, depth_scale_m):
            if isinstance(item, Refusal):
                part.refuse(item)
            else:
                part.add(*item)


def read_info(directory: Path) -> DatasetInfo:
    """What `dataset.json` says.

    Raises:
        InputError: If the directory holds no dataset, or one this version cannot read.
    """
    return read_description(directory / INFO).info


def dataset_digest(directory: Path) -> str:
    """Names the content: `dataset.json` holds every tar's SHA-256, `index.parquet` what is where.

    Raises:
        InputError: If one of the two is missing.
    """
    digest = hashlib.sha256()
    for name in (INDEX, INFO):
        try:
            digest.update((directory / name).read_bytes())
        except OSError as error:
            raise InputError(
                f"{directory / name}: {error.strerror}; {directory} is not a dataset directory"
            ) from None
    return digest.hexdigest()


def decode_sample(sample: dict[str, Any], depth_scale_m: float = 0.001) -> dict[str, Any]:
    """Decode what a plain `webdataset.WebDataset` yields: `dataset.map(decode_sample)`.

    Args:
        sample: Bytes by member suffix, and keys that begin with `__`.
        depth_scale_m: That of `dataset.json`; only a depth PNG needs it.

    Returns:
        `rgb` uint8 (height width 3), `depth` float32 metres with NaN where invalid, `seg` uint8,
        each where present; `json` as a mapping; keys that begin with `__` as they were.

    Raises:
        ValueError: If a member is not what its suffix says.
    """
    decoded: dict[str, Any] = {}
    for name, content in sample.items():
        modality, _, suffix = name.partition(".")
        if name.startswith("__"):
            decoded[name] = content
        elif name == "json":
            decoded["json"] = json.loads(content)
        elif modality in MODALITIES:
            decoded[modality] = decode(modality, suffix, content, depth_scale_m)
    return decoded


def _encoded(
    samples: Iterable[tuple[SplitName, Sample | EncodedSample] | Refusal],
    image_size: int,
    suffixes: Mapping[str, str],
    depth_scale_m: float,
) -> Iterator[tuple[SplitName, EncodedSample] | Refusal]:
    for item in samples:
        match item:
            case (split, Sample() as sample):
                _check_size(sample, image_size)
                try:
                    yield split, encode(sample, suffixes, depth_scale_m)
                except Refused as refused:
                    yield Refusal(
                        sample.origin or sample.key, refused.reason, refused.detail, refused.remedy, split
                    )
            case _:
                yield item


class _Parts:
    """One open part per split, filled as samples come, and one more for what comes refused."""

    def __init__(self, directory: Path, samples: int, factors: Sequence[str]) -> None:
        self._directory, self._samples, self._factors = directory, samples, factors
        self._open: dict[str, PartWriter] = {}
        self._begun = 0
        self.total = 0

    def add(self, item: tuple[SplitName, EncodedSample] | Refusal) -> None:
        self.total += 1
        if isinstance(item, Refusal):
            self._part("").refuse(item)
            return
        split, sample = item
        part = self._part(split)
        part.add(split, sample)
        if part.samples == self._samples:
            del self._open[split]
            part.__exit__(None, None, None)

    def _part(self, split: str) -> PartWriter:
        if split and split not in SPLITS:
            raise ValueError(f"split {split!r}; allowed are {', '.join(SPLITS)}")
        if split not in self._open:
            self._open[split] = PartWriter(self._directory, self._begun, self._factors)
            self._open[split].__enter__()
            self._begun += 1
        return self._open[split]

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *error: Any) -> None:
        for part in self._open.values():
            part.__exit__(*error)


def _check_size(sample: Sample, image_size: int) -> None:
    for modality in MODALITIES:
        array = getattr(sample, modality)
        if array is not None and array.shape[:2] != (image_size, image_size):
            raise ValueError(f"sample {sample.key}: {modality} is {array.shape[:2]}, not {image_size} square")
