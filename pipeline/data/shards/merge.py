"""From finished parts to a dataset directory.

Everything that appears is made anew from the parts, which stay as they are until `dataset.json`, the last
file, is there; so a merge that was killed anywhere is simply done again. Tars are linked, not copied, unless
samples were refused late or small ones are joined.
"""

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from pipeline.data.columns import numbers, numbers_of, texts, truths
from pipeline.data.modality import MODALITIES, SPLITS, DatasetInfo, Factor, SplitName
from pipeline.data.refusal import Refusal
from pipeline.data.shards.description import Description, write_description
from pipeline.data.shards.late import Duplicates, Late, judge, refusal_of
from pipeline.data.shards.members import lossy_modalities
from pipeline.data.shards.parts import PARTS, Part, all_parts
from pipeline.data.shards.rows import MEMBERS, index_schema
from pipeline.data.shards.survey import Block, Survey, survey
from pipeline.data.shards.tables import REFUSALS, TableWriter, refusal_table
from pipeline.data.shards.tally import Tally
from pipeline.data.shards.tar import Shard, TarWriter
from pipeline.data.statistics import DEPTH_SUMS, DepthSums, total_of
from pipeline.durable import sync_directory
from pipeline.errors import InputError

INFO, INDEX, QUARANTINE = "dataset.json", "index.parquet", "quarantine.parquet"

_CANNOT_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset beside its samples.

    Attributes:
        class_names: In the order of the labels; None names them by number.
        image_size: Height and width of every sample.
        factors: What every sample is known by.
        depth_scale_m: Metres per unit of a depth PNG.
        whole_depth: Whether a depth PNG loses nothing.
        source: How the data came about.
        shard_samples: Most samples in a tar.
        duplicates: Which copies across splits are refused.
        rendered: Whether there is nothing to suspect.
        needed: Splits that must not be empty.
    """

    class_names: Sequence[str] | None
    image_size: int
    factors: tuple[Factor, ...] = ()
    depth_scale_m: float = 0.001
    whole_depth: bool = False
    source: dict[str, Any] = field(default_factory=dict)
    shard_samples: int = 1000
    duplicates: Duplicates = "exact"
    rendered: bool = True
    needed: tuple[SplitName, ...] = ()


@dataclass(frozen=True)
class Merged:
    """A dataset that is complete, and what a person should know of it."""

    info: DatasetInfo
    notes: tuple[str, ...]


def merge(directory: Path, facts: Facts, tally: Tally) -> Merged:
    """Make the dataset of all finished parts, then remove them.

    Args:
        directory: Where the parts are and the dataset appears.
        facts: What is known of the dataset.
        tally: Counts what was refused, and stops if that is too much.

    Raises:
        InputError: If too much was refused.
        ValueError: If a key is repeated, or a label has no name.
    """
    _remove_unfinished(directory)
    parts = list(all_parts(directory))
    found = survey(parts)
    late = judge(found, facts.duplicates, rendered=facts.rendered)
    with TableWriter(directory / QUARANTINE, REFUSALS) as quarantine:
        for refusals in _refusals(parts, found, late):
            for refusal in refusals:
                tally.add(refusal)
            quarantine.add(refusal_table(refusals))
    _check_splits(directory, facts, found, late, tally)
    sums = _Sums()
    shards: dict[str, Shard] = {}
    with TableWriter(directory / INDEX, index_schema([factor.name for factor in facts.factors])) as index:
        for split in SPLITS:
            blocks = [block for block in found.blocks if block.split == split]
            for number, group in enumerate(_grouped(blocks, late, facts.shard_samples)):
                name = f"{split}-{number:06d}.tar"
                rows, shards[name] = _write_shard(directory / name, group, late)
                sums.add(split, rows)
                index.add(_named(rows, split, name))
    info = _info(facts, parts, found, late, sums, tally)
    suffixes = {m: suffix.partition(".")[2] for m, suffix in _members(parts).items()}
    members = {m: f"{m}.{suffixes[m]}" for m in info.modalities}
    lossy = tuple(m for m in lossy_modalities(suffixes, facts.whole_depth) if m in members)
    sync_directory(directory)
    description = Description(info, members, dict(sorted(shards.items())), lossy)
    write_description(directory / INFO, description)
    shutil.rmtree(directory / PARTS, ignore_errors=True)
    return Merged(info, late.notes)


def _remove_unfinished(directory: Path) -> None:
    """What an earlier merge left that did not come to its end."""
    for split in SPLITS:
        for path in directory.glob(f"{split}-*.tar"):
            path.unlink()
    for name in (INDEX, QUARANTINE, *(path.name for path in directory.glob(f".{INFO}.*.tmp"))):
        (directory / name).unlink(missing_ok=True)


def _check_splits(directory: Path, facts: Facts, found: Survey, late: Late, tally: Tally) -> None:
    kept = np.bincount(found.split[~late.refused], minlength=len(SPLITS)).tolist()
    counts = {split: count for split, count in zip(SPLITS, kept, strict=True) if count}
    because = tally.mostly()
    if not counts:
        why = f"refused: {because}" if because else "the source is empty"
        raise InputError(f"{directory}: no sample was written; {why}")
    for split in facts.needed:
        if split not in counts:
            advice = (
                f"refused: {because}"
                if because
                else "hold out less (data.held_out), use smaller blocks (data.block) or give more samples"
            )
            raise InputError(f"no sample is left for split {split} (there are {counts}); {advice}")


def _refusals(parts: Sequence[Part], found: Survey, late: Late) -> Iterator[list[Refusal]]:
    """What was refused, part by part: when it was loaded, then when all were known."""
    keys = found.keys(np.unique(late.twin[late.twin >= 0]))
    for part in parts:
        refusals = part.refusals()
        for block in found.blocks:
            if block.part is part:
                refusals += _late_refusals(block, found, late, keys)
        if refusals:
            yield refusals


def _late_refusals(block: Block, found: Survey, late: Late, keys: dict[int, str]) -> list[Refusal]:
    refused = np.flatnonzero(late.refused[block.first : block.first + block.count])
    if not len(refused):
        return []
    places = block.part.rows(block.split, ["json_offset", "json_size"]).take(numbers(refused)).to_pylist()
    refusals = []
    with block.part.tar(block.split).open("rb") as tar:
        for row, place in zip((block.first + refused).tolist(), places, strict=True):
            tar.seek(place["json_offset"])
            origin = json.loads(tar.read(place["json_size"]))["origin"]
            refusals.append(refusal_of(row, origin, found, late, keys))
    return refusals


def _kept(block: Block, late: Late) -> Bool[np.ndarray, " row"]:
    return ~late.refused[block.first : block.first + block.count]


def _grouped(blocks: Sequence[Block], late: Late, most: int) -> Iterator[list[Block]]:
    """Blocks that become one tar: neighbours, as long as they do not hold more samples than a tar may."""
    group: list[Block] = []
    samples = 0
    for block in blocks:
        count = int(_kept(block, late).sum())
        if not count:
            continue
        if group and samples + count > most:
            yield group
            group, samples = [], 0
        group.append(block)
        samples += count
    if group:
        yield group


def _write_shard(path: Path, group: Sequence[Block], late: Late) -> tuple[pa.Table, Shard]:
    """Put a tar in place: the part's own if it is to hold exactly that, else one made of its members."""
    if len(group) == 1 and _kept(group[0], late).all():
        part, split = group[0].part, group[0].split
        _link(part.tar(split), path)
        return part.rows(split), part.tars[split]
    tar = TarWriter(path)
    try:
        tables = [_copy(block, _kept(block, late), tar) for block in group]
    except BaseException:
        tar.abandon()
        raise
    return pa.concat_tables(tables), tar.finish()


def _copy(block: Block, kept: Bool[np.ndarray, " row"], tar: TarWriter) -> pa.Table:
    """Append the members of some samples to a tar; their rows, with where the members are now."""
    rows = block.part.rows(block.split).filter(truths(kept))
    keys = rows["key"].to_pylist()
    suffix = {**block.part.members, "json": "json"}
    old = {m: (rows[f"{m}_offset"].to_pylist(), rows[f"{m}_size"].to_pylist()) for m in MEMBERS}
    new: dict[str, list[int]] = {m: [] for m in MEMBERS}
    with block.part.tar(block.split).open("rb") as source:
        for row, key in enumerate(keys):
            for member in MEMBERS:
                offset, size = old[member][0][row], old[member][1][row]
                if offset < 0:
                    new[member].append(-1)
                    continue
                source.seek(offset)
                new[member].append(tar.add(f"{key}.{suffix[member]}", source.read(size)))
            tar.samples += 1
    for member in MEMBERS:
        column = f"{member}_offset"
        rows = rows.set_column(
            rows.column_names.index(column), column, numbers(np.array(new[member], np.int64))
        )
    return rows


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system knows no such thing.

    Raises:
        OSError: If it can be neither.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _named(rows: pa.Table, split: str, shard: str) -> pa.Table:
    """Rows with the columns that say where they are."""
    zeros = numbers(np.zeros(rows.num_rows, np.int32))
    for name, value in (("split", split), ("shard", shard)):
        rows = rows.append_column(name, pa.DictionaryArray.from_arrays(zeros, texts([value], pa.string())))
    return rows


class _Sums:
    """What is added up while rows go by."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.training_depth, self.other_depth = DepthSums(), DepthSums()
        self.largest_label = -1
        self.present: set[str] = set()

    def add(self, split: str, rows: pa.Table) -> None:
        self.counts[split] += rows.num_rows
        self.largest_label = max(self.largest_label, int(numbers_of(rows["largest_label"]).max()))
        self.present |= {m for m in MODALITIES if (numbers_of(rows[f"{m}_offset"]) >= 0).any()}
        depth = total_of({name: numbers_of(rows[f"depth_{name}"]) for name in DEPTH_SUMS})
        if split == "train":
            self.training_depth += depth
        else:
            self.other_depth += depth


def _members(parts: Sequence[Part]) -> dict[str, str]:
    """Member suffix per modality over all parts.

    Raises:
        ValueError: If two of them store a modality differently.
    """
    members: dict[str, str] = {}
    for part in parts:
        for modality, suffix in part.members.items():
            if members.setdefault(modality, suffix) != suffix:
                raise ValueError(f"{part.directory}: stores {modality} as {suffix}, not {members[modality]}")
    return members


def _info(
    facts: Facts, parts: Sequence[Part], found: Survey, late: Late, sums: _Sums, tally: Tally
) -> DatasetInfo:
    depth = sums.training_depth if sums.training_depth.count else sums.other_depth
    return DatasetInfo(
        modalities=tuple(modality for modality in MODALITIES if modality in sums.present),
        class_names=_class_names(facts.class_names, sums),
        image_size=facts.image_size,
        counts={split: sums.counts[split] for split in SPLITS if sums.counts[split]},
        factors=facts.factors,
        depth=depth.statistics(),
        depth_scale_m=facts.depth_scale_m,
        source=facts.source,
        quarantine=tally.reasons,
    )


def _class_names(names: Sequence[str] | None, sums: _Sums) -> tuple[str, ...]:
    if "seg" not in sums.present:
        return ()
    if names is None:
        return tuple(str(label) for label in range(sums.largest_label + 1))
    if sums.largest_label >= len(names):
        raise ValueError(f"a label {sums.largest_label} was written, but there are only {len(names)} classes")
    return tuple(names)
