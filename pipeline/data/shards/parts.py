"""A dataset is made in parts, each whole or not there, so that a killed run goes on with the finished ones.

Part p holds up to `data.shard_samples` consecutive samples of one planned split, in `parts/<p>/`: for every
split it turned out to have `<split>.tar` and `<split>.rows.parquet`, then `refused.parquet` and `part.json`,
all in a directory that is then renamed. What a part holds is a function of its samples alone.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.data.modality import MODALITIES, SPLITS, SplitName
from pipeline.data.refusal import Refusal
from pipeline.data.shards.encoded import EncodedSample
from pipeline.data.shards.rows import PartRows
from pipeline.data.shards.tables import refusal_table, refusals_of
from pipeline.data.shards.tar import Shard, TarWriter
from pipeline.durable import sync_directory, synced

PARTS = "parts"
ROWS, REFUSED, PART = "rows.parquet", "refused.parquet", "part.json"

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True)
class PlannedPart:
    """Which entries of a catalogue a part is made of.

    Attributes:
        number: Its place among the parts.
        split: Where its samples belong, as far as is known before they are loaded.
        entries: Their numbers.
    """

    number: int
    split: SplitName
    entries: Int64[np.ndarray, " entry"]


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        directory: Where it is.
        planned: How many entries it was made of.
        tars: The tar of each split it has.
        members: Member suffix per modality (`rgb.npy`).
        refused: How many of its samples were refused.
    """

    directory: Path
    planned: int
    tars: dict[str, Shard]
    members: dict[str, str]
    refused: int

    def tar(self, split: str) -> Path:
        """Where the samples of a split are."""
        return self.directory / f"{split}.tar"

    def rows(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """What is known of the samples of a split."""
        return _read_table(self.directory / f"{split}.{ROWS}", columns)

    def refusals(self) -> list[Refusal]:
        """What was refused."""
        return refusals_of(_read_table(self.directory / REFUSED)) if self.refused else []


def plan_parts(splits: Sequence[SplitName], samples: int) -> list[PlannedPart]:
    """Divide entries into parts: split by split, in the order of the catalogue.

    Args:
        splits: Planned split per entry.
        samples: Most entries in a part.
    """
    number = {name: place for place, name in enumerate(SPLITS)}
    codes = np.fromiter((number[name] for name in splits), np.uint8, len(splits))
    parts: list[PlannedPart] = []
    for place, split in enumerate(SPLITS):
        entries = np.flatnonzero(codes == place)
        for first in range(0, len(entries), samples):
            parts.append(PlannedPart(len(parts), split, entries[first : first + samples]))
    return parts


def part_directory(directory: Path, number: int) -> Path:
    """Where a part of the dataset made in `directory` is."""
    return directory / PARTS / f"{number:06d}"


def finished_part(directory: Path, number: int, planned: int) -> Part | None:
    """A part that is there and whole, or None.

    Args:
        directory: Where the dataset is made.
        number: Which part.
        planned: How many entries it must have been made of.
    """
    place = part_directory(directory, number)
    try:
        part = _read_part(place)
        whole = all(part.tar(split).stat().st_size == shard.bytes for split, shard in part.tars.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return part if whole and part.planned == planned else None


def finished_numbers(directory: Path) -> set[int]:
    """The parts whose directories are there, by a listing (which network file systems keep fresh)."""
    place = directory / PARTS
    return {int(path.name) for path in place.iterdir() if path.name.isdecimal()} if place.is_dir() else set()


class PartWriter:
    """Writes one part; a context manager, at whose end the part is there, whole and on the disk."""

    def __init__(self, directory: Path, number: int, factors: Sequence[str], planned: int = 0) -> None:
        """Begin a part.

        Args:
            directory: Where the dataset is made.
            number: Which part.
            factors: Names of the factors that every sample knows.
            planned: How many entries it is made of.
        """
        self._final = part_directory(directory, number)
        self._place = self._final.with_name(f".{self._final.name}.tmp")
        self._factors, self._planned = tuple(factors), planned
        self._tars: dict[str, TarWriter] = {}
        self._rows: dict[str, PartRows] = {}
        self._members: dict[str, str] = {}
        self._refusals: list[Refusal] = []
        self.samples = 0

    def add(self, split: SplitName, sample: EncodedSample) -> None:
        """Append a sample.

        Raises:
            ValueError: If its key has other characters than it may, it has no modality, or
                stores one otherwise than the samples before.
        """
        if split not in SPLITS:
            raise ValueError(f"sample {sample.key}: split {split!r}; allowed are {', '.join(SPLITS)}")
        if not _KEY.fullmatch(sample.key):
            raise ValueError(f"sample key {sample.key!r}: keys are 1 to 80 of A-Z a-z 0-9 _ -")
        if not any(suffix.partition(".")[0] in MODALITIES for suffix in sample.members):
            raise ValueError(f"sample {sample.key}: it has none of {', '.join(MODALITIES)}")
        if split not in self._tars:
            self._tars[split] = TarWriter(self._place / f"{split}.tar")
            self._rows[split] = PartRows(self._factors)
        tar, places = self._tars[split], {}
        for suffix, content in sample.members.items():
            member = suffix.partition(".")[0]
            places[member] = (tar.add(f"{sample.key}.{suffix}", content), len(content))
            if member in MODALITIES and self._members.setdefault(member, suffix) != suffix:
                raise ValueError(
                    f"sample {sample.key}: a dataset stores {member} as {self._members[member]} or {suffix}"
                )
        tar.samples += 1
        self.samples += 1
        self._rows[split].add(sample, places)

    def refuse(self, refusal: Refusal) -> None:
        """Note what was refused."""
        self._refusals.append(refusal)

    def __enter__(self) -> "PartWriter":
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for tar in self._tars.values():
                tar.abandon()

    def _finish(self) -> None:
        tars = {split: self._tars[split].finish() for split in SPLITS if split in self._tars}
        for split in tars:
            _write_table(self._place / f"{split}.{ROWS}", self._rows[split].table())
        if self._refusals:
            _write_table(self._place / REFUSED, refusal_table(self._refusals))
        part = Part(self._final, self._planned, tars, self._members, len(self._refusals))
        _write_part(self._place, part)
        sync_directory(self._place)
        shutil.rmtree(self._final, ignore_errors=True)  # one that was found damaged
        self._place.rename(self._final)
        sync_directory(self._final.parent)


def all_parts(directory: Path) -> Iterator[Part]:
    """Every finished part, in order."""
    for number in sorted(finished_numbers(directory)):
        yield _read_part(part_directory(directory, number))


def _write_table(path: Path, table: pa.Table) -> None:
    with synced(path) as file:
        pq.write_table(table, file, compression="lz4")


def _read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    with pq.ParquetFile(path) as file:  # `read_table` imports pyarrow.dataset, and that pandas
        return file.read(columns)


def _write_part(place: Path, part: Part) -> None:
    described = asdict(part)
    del described["directory"]
    with synced(place / PART) as file:
        file.write(json.dumps(described, indent=1).encode())


def _read_part(place: Path) -> Part:
    stored = json.loads((place / PART).read_bytes())
    tars = {split: Shard(**shard) for split, shard in stored.pop("tars").items()}
    return Part(place, tars=tars, **stored)
