"""Existing WebDataset tars, here or behind a URL: indexed by their headers, read by ranges, never extracted.

A member's name is divided at the first dot of its last part, as webdataset does: `kitchen/0001.rgb.png`
is member `rgb.png` of sample `kitchen/0001`. Only members with configured endings are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.containers import WebdatasetSource
from pipeline.config.data import Data
from pipeline.config.pictures import DepthSection
from pipeline.data.columns import numbers, texts
from pipeline.data.modality import MODALITIES, SplitName
from pipeline.data.pictures.assemble import assembly_for
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.sources.partition import Partition, partition
from pipeline.data.sources.rows import Names, Rows
from pipeline.data.sources.tar_index import Series, join, scan
from pipeline.data.sources.tar_load import TarIndex, TarSamples
from pipeline.data.splits import held_out_values
from pipeline.data.storage import Storage
from pipeline.errors import InputError

PLAIN_ENDINGS = {
    "rgb": ("jpg", "jpeg", "png", "npy"),
    "depth": ("png", "npy", "exr", "tif", "tiff"),
    "seg": ("png", "npy", "tif", "tiff"),
}
NAMED_ENDINGS = {
    "rgb": ("rgb.png", "rgb.jpg", "rgb.jpeg", "rgb.npy"),
    "depth": ("depth.png", "depth.npy", "depth.exr", "depth.tif", "depth.tiff"),
    "seg": ("seg.png", "seg.npy", "seg.tif", "seg.tiff"),
}

_FINE_M = 0.001
_SHOWN = 4


def open_webdataset(config: Data, source: WebdatasetSource) -> Catalogue:
    """The samples of the tars.

    Raises:
        InputError: If there are no such tars, they cannot be read, or they hold nothing that was asked for.
    """
    held_out_values(config.held_out.factors, ())
    storage = Storage(source.root, source.options, source.retries)
    endings = endings_of(source)
    parts = {
        modalities: partition(storage.names(patterns, "data.source.shards"), source.splits, "tars")
        for modalities, patterns in _series(source, endings).items()
    }
    tars = tuple(tar for part in parts.values() for tar in part.names)
    scanned, first = [], 0
    for modalities, part in parts.items():
        one = scan(storage, part.names, first, {m: endings[m] for m in modalities})
        _check_members(one, {m: endings[m] for m in modalities}, part.names[0])
        scanned.append(one)
        first += len(part.names)
    joined = join(_told_apart(scanned, tars, [len(part.names) for part in parts.values()]))
    _check_join(joined, scanned, tuple(parts))
    assembly = assembly_for(config, source.depth, source.seg, source.classes)
    index = TarIndex(Names.of(joined.names.to_pylist()), joined, endings)
    whole = source.depth is not None and _is_whole(source.depth, joined, endings)
    return Catalogue(
        entries=Rows(len(joined.names), index.entry),
        splits=_splits(config, tuple(parts.values()), joined),
        load=TarSamples(storage, tars, assembly),
        class_names=assembly.class_names,
        depth_scale_m=assembly.depth_scale_m if whole else min(assembly.depth_scale_m, _FINE_M),
        whole_depth=whole,
        description=source.model_dump(mode="json", exclude={"root", "options", "retries"}),
        notes=(*next(iter(parts.values())).notes, *_notes(joined)),
    )


def endings_of(source: WebdatasetSource) -> dict[str, tuple[str, ...]]:
    """Endings of members per modality; by default those that no other modality was given.

    Raises:
        InputError: If two modalities are given the same one.
    """
    sections = {m: part for m in MODALITIES if (part := getattr(source, m)) is not None}
    given = [(ending, m) for m, part in sections.items() for ending in part.members or ()]
    alone = isinstance(source.shards, tuple)
    for (ending, modality), (other_ending, other) in pairwise(sorted(given)):
        if alone and ending == other_ending and modality != other:
            raise InputError(
                f"data.source: members .{ending} cannot be both {modality} and {other}; name others"
            )
    taken = {ending for ending, _ in given} if alone else set()
    endings = {}
    for modality, part in sections.items():
        plain = PLAIN_ENDINGS[modality] if modality == "rgb" or not alone else ()
        default = tuple(ending for ending in (*NAMED_ENDINGS[modality], *plain) if ending not in taken)
        endings[modality] = tuple(ending.lower().lstrip(".") for ending in part.members or default)
    return endings


def _series(
    source: WebdatasetSource, endings: Mapping[str, Sequence[str]]
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Patterns of tars, by the modalities in them."""
    if isinstance(source.shards, dict):
        return {(modality,): source.shards[modality] for modality in MODALITIES if modality in source.shards}
    return {tuple(endings): source.shards}


def _check_members(series: Series, endings: Mapping[str, Sequence[str]], tar: str) -> None:
    """Every modality occurs.

    Raises:
        InputError: If one does not; it names what there is.
    """
    for modality, places in series.places.items():
        if not (places.tar >= 0).any() and not series.troubles:
            there = [f".{ending} ({count})" for ending, count in series.unread.most_common(_SHOWN)]
            raise InputError(
                f"data.source.{modality}: no member of the tars ({tar} ...) ends in "
                f"{', '.join(f'.{ending}' for ending in endings[modality])}; others end in "
                f"{', '.join(there) or '(none)'}; name them in data.source.{modality}.members, "
                f"or set data.source.{modality}: null"
            )


def _told_apart(scanned: Sequence[Series], tars: Sequence[str], counts: Sequence[int]) -> list[Series]:
    """Series in which a name occurs once; where tars repeat names, the tar's own goes before them.

    Raises:
        InputError: If names repeat and series have different numbers of tars, so that nothing tells which
            samples belong together.
    """
    if all(pc.count_distinct(one.names).as_py() == len(one.names) for one in scanned):
        return list(scanned)
    if len(set(counts)) > 1:
        raise InputError(
            "data.source.shards: different tars use the same names inside, and the series have "
            f"{', '.join(map(str, counts))} tars; which belong together cannot be known"
        )
    stems = [PurePosixPath(tar).with_suffix("").as_posix() for tar in tars[: counts[0]]]
    told, slash = texts(stems), pa.scalar("/", pa.large_string())
    return [
        replace(
            one,
            names=pc.binary_join_element_wise(told.take(numbers(one.file % counts[0])), one.names, slash),
        )
        for one in scanned
    ]


def _check_join(joined: Series, scanned: Sequence[Series], modalities: Sequence[tuple[str, ...]]) -> None:
    """Series have names in common.

    Raises:
        InputError: If there is no sample, or one of several series shares no name with the others.
    """
    if not len(joined.names):
        raise InputError("data.source.shards: the tars hold no sample")
    have = {names: joined.places[names[0]].tar >= 0 for names in modalities}
    for names, one in zip(modalities, scanned, strict=True):
        others = [here for other, here in have.items() if other != names]
        if others and not (have[names] & np.any(others, axis=0)).any():
            raise InputError(
                f"data.source.shards: no name in the tars of {names[0]} occurs in another series; "
                f"{names[0]} has {one.names[0].as_py()!r}, the first series {scanned[0].names[0].as_py()!r}"
            )


def _splits(config: Data, parts: Sequence[Partition], joined: Series) -> list[SplitName]:
    told = [part.splits for part in parts if part.splits is not None]
    whole = Partition(
        tuple(name for part in parts for name in part.names),
        tuple(split for splits in told for split in splits) if len(told) == len(parts) else None,
    )
    return whole.of_samples(joined.file.tolist(), config)


def _notes(joined: Series) -> list[str]:
    notes = []
    lacking = np.any([places.tar < 0 for places in joined.places.values()], axis=0)
    if incomplete := int((lacking & (joined.trouble < 0)).sum()):
        notes.append(
            f"{incomplete} of {len(joined.names)} samples lack a modality; it counts as missing there"
        )
    if joined.unread:
        listed = ", ".join(f".{ending}" for ending, _ in joined.unread.most_common(_SHOWN))
        notes.append(f"{joined.unread.total()} other members are not read: {listed}")
    return notes


def _is_whole(section: DepthSection, joined: Series, endings: Mapping[str, Sequence[str]]) -> bool:
    """Whether depth is stored as integers of a unit everywhere."""
    codes = np.unique(joined.places["depth"].ending[joined.places["depth"].tar >= 0]).tolist()
    pictures = all(endings["depth"][code // 2].endswith("png") for code in codes)
    return pictures and section.encoding != "disparity" and section.distance == "planar"
