"""A dataset directory: tars in the WebDataset format, a byte index over them, and what they hold.

Samples are written in the order they come; the loader shuffles. What is written is a function of
the samples alone (no dates, no owners), so the same input gives the same bytes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.data.modality import MODALITIES, SPLITS, DatasetInfo, Factor, Sample, SplitName
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.shards.description import Description, read_description, write_description
from pipeline.data.shards.index import IndexRows, write_index, write_quarantine
from pipeline.data.shards.members import EncodedSample, decode, encode, encoding_for
from pipeline.data.shards.tar import Shard, TarWriter
from pipeline.data.statistics import DepthSums
from pipeline.errors import InputError

INFO, INDEX, QUARANTINE = "dataset.json", "index.parquet", "quarantine.parquet"

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


def write_dataset(
    directory: Path,
    samples: Iterable[tuple[SplitName, Sample | EncodedSample] | Refusal],
    *,
    class_names: Sequence[str] | None,
    image_size: int,
    encoding: str = "auto",
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
        encoding: `npy`, `png` or `auto` (npy up to 64 px).
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
    stored = encoding_for(encoding, image_size)
    writer = _Writer(directory, shard_samples, [factor.name for factor in factors])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with writer:
            for item in samples:
                match item:
                    case Refusal():
                        writer.refusals.append(item)
                    case (split, EncodedSample() as sample):
                        writer.add(split, sample)
                    case (split, sample):
                        _check_size(sample, image_size)
                        writer.encode(split, sample, stored, depth_scale_m)
        if not writer.shards:
            raise InputError(
                f"{directory}: no sample was written; the source is empty or everything was refused"
            )
        info = DatasetInfo(
            modalities=tuple(modality for modality in MODALITIES if modality in writer.members),
            class_names=writer.class_names(class_names),
            image_size=image_size,
            counts={split: writer.counts[split] for split in SPLITS if writer.counts[split]},
            factors=tuple(factors),
            depth=(writer.training_depth if writer.training_depth.count else writer.other_depth).statistics(),
            depth_scale_m=depth_scale_m,
            source=source or {},
            quarantine=dict(sorted(Counter(refusal.reason for refusal in writer.refusals).items())),
        )
        write_index(directory / INDEX, [writer.rows[split] for split in SPLITS if split in writer.rows])
        write_quarantine(directory / QUARANTINE, writer.refusals)
        write_description(
            directory / INFO, Description(info, writer.members, dict(sorted(writer.shards.items())))
        )
        _sync_directory(directory)
    except OSError as error:
        raise InputError(
            f"{error.filename or directory}: the dataset cannot be written: {error.strerror or error}; "
            "free some space or write elsewhere"
        ) from error
    return info


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


class _Writer:
    """One open tar per split, and what is known of the samples that went in."""

    def __init__(self, directory: Path, shard_samples: int, factors: Sequence[str]) -> None:
        self._directory, self._shard_samples, self._factors = directory, shard_samples, factors
        self._open: dict[str, TarWriter] = {}
        self._finished: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._largest_label = -1
        self.rows: dict[str, IndexRows] = {}
        self.shards: dict[str, Shard] = {}
        self.members: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.training_depth, self.other_depth = DepthSums(), DepthSums()
        self.refusals: list[Refusal] = []

    def encode(self, split: str, sample: Sample, encoding: Any, depth_scale_m: float) -> None:
        try:
            self.add(split, encode(sample, encoding, depth_scale_m))
        except Refused as refused:
            self.refusals.append(
                Refusal(sample.origin or sample.key, refused.reason, refused.detail, refused.remedy)
            )

    def add(self, split: str, sample: EncodedSample) -> None:
        if split not in SPLITS:
            raise ValueError(f"sample {sample.key}: split {split!r}; allowed are {', '.join(SPLITS)}")
        if sample.key in self._keys or not _KEY.fullmatch(sample.key):
            raise ValueError(f"sample key {sample.key!r}: keys are unique, 1 to 80 of A-Z a-z 0-9 _ -")
        if not any(suffix.partition(".")[0] in MODALITIES for suffix in sample.members):
            raise ValueError(f"sample {sample.key}: it has none of {', '.join(MODALITIES)}")
        self._keys.add(sample.key)
        tar = self._tar(split)
        places = {}
        for suffix, content in sample.members.items():
            member = suffix.partition(".")[0]
            places[member] = (tar.add(f"{sample.key}.{suffix}", content), len(content))
            if member in MODALITIES and self.members.setdefault(member, suffix) != suffix:
                raise ValueError(
                    f"sample {sample.key}: a dataset stores {member} as {self.members[member]} or {suffix}"
                )
        tar.samples += 1
        self.rows[split].add(tar.name, sample.key, places, sample.factors)
        self.counts[split] += 1
        self._largest_label = max((self._largest_label, *sample.labels))
        if split == "train":
            self.training_depth += sample.depth
        else:
            self.other_depth += sample.depth

    def class_names(self, names: Sequence[str] | None) -> tuple[str, ...]:
        if "seg" not in self.members:
            return ()
        if names is None:
            return tuple(str(label) for label in range(self._largest_label + 1))
        if self._largest_label >= len(names):
            raise ValueError(
                f"a label {self._largest_label} was written, but there are only {len(names)} classes"
            )
        return tuple(names)

    def _tar(self, split: str) -> TarWriter:
        tar = self._open.get(split)
        if tar is not None and tar.samples == self._shard_samples:
            self.shards[tar.name] = tar.finish()
            self._finished[split] += 1
            tar = None
        if tar is None:
            tar = TarWriter(self._directory / f"{split}-{self._finished[split]:06d}.tar")
            self._open[split] = tar
            self.rows.setdefault(split, IndexRows(split, self._factors))
        return tar

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tar in self._open.values():
            if kind is None:
                self.shards[tar.name] = tar.finish()
            else:
                tar.abandon()


def _check_size(sample: Sample, image_size: int) -> None:
    for modality in MODALITIES:
        array = getattr(sample, modality)
        if array is not None and array.shape[:2] != (image_size, image_size):
            raise ValueError(f"sample {sample.key}: {modality} is {array.shape[:2]}, not {image_size} square")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
