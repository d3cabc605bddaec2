"""A person's own data: a tree of RGB, depth and label files that belong together by name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.data import Data
from pipeline.config.sources import FolderSource
from pipeline.data.columns import texts
from pipeline.data.modality import Sample, SplitName
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.exr import check_exr_can_be_read
from pipeline.data.pictures.files import read_picture
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.sources.layout import places_of
from pipeline.data.sources.meta import Meta, read_meta
from pipeline.data.sources.partition import partition
from pipeline.data.sources.rows import Names, Rows
from pipeline.data.sources.tree import Joined, join_trees, leads_outside
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import InputError

_PLAIN_DEPTH_SCALE_M = 0.001


@dataclass(frozen=True)
class FolderEntry:
    """The files of one sample.

    Attributes:
        key: Unique and safe.
        name: What its owner calls it.
        files: Path below the root per modality that it has.
    """

    key: str
    name: str
    files: Mapping[str, str]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FolderSamples:
    """Loads samples of a folder, one at a time.

    Attributes:
        root: Links that lead out of it are not followed.
        assembly: What becomes of their pictures.
    """

    root: Path
    assembly: Assembly

    def __call__(self, entry: FolderEntry) -> Sample:
        """Load one sample.

        Raises:
            Refused: If one of its files cannot be used, or they do not fit each other.
        """
        paths = {modality: self.root / path for modality, path in entry.files.items()}
        for path in paths.values():
            if leads_outside(path, self.root):
                raise Refused(
                    "link", f"{path.name} is a link out of {self.root.name}", "put the file itself there"
                )
        pictures = {modality: read_picture(path) for modality, path in paths.items()}
        return self.assembly.sample(entry.key, entry.name, pictures)


@dataclass(frozen=True)
class _FolderRow:
    """Makes the entry at a place from columns."""

    names: Names
    paths: Mapping[str, pa.Array]

    def __call__(self, number: int) -> FolderEntry:
        stored = {modality: column[number].as_py() for modality, column in self.paths.items()}
        files = {modality: os.fsdecode(path) for modality, path in stored.items() if path is not None}
        return FolderEntry(self.names.key(number), self.names.name(number), files)


def open_folder(config: Data, source: FolderSource) -> Catalogue:
    """What the folder has.

    Raises:
        InputError: If folders, files or `meta.json` are not there or do not fit each other.
    """
    held_out_values(config.held_out.factors, ())
    meta = Meta() if source.meta is None else read_meta(source.root / source.meta)
    assembly = assembly_for(config, source.depth, source.seg, source.classes or meta.classes)
    joined = join_trees(source.root, places_of(source))
    if any(".exr" in endings for endings in joined.endings.values()):
        check_exr_can_be_read()
    notes = []
    if lacking := joined.lacking():
        notes.append(f"{lacking} of {len(joined)} samples lack a modality; it counts as missing there")
    joined, splits, more = _splits(config, source, joined, meta)
    whole = assembly.whole_depth and joined.endings.get("depth", frozenset()) <= {".png"}
    return Catalogue(
        entries=Rows(len(joined), _FolderRow(Names.of(joined.names.to_pylist()), joined.paths)),
        splits=splits,
        load=OneByOne(FolderSamples(source.root.resolve(), assembly)),
        class_names=assembly.class_names,
        depth_scale_m=assembly.depth_scale_m if whole else _PLAIN_DEPTH_SCALE_M,
        whole_depth=whole,
        description=source.model_dump(mode="json", exclude={"root"}),
        notes=(*notes, *more),
    )


def _splits(
    config: Data, source: FolderSource, joined: Joined, meta: Meta
) -> tuple[Joined, list[SplitName], list[str]]:
    """The samples that are used, their splits, and what a person should know of the others.

    Raises:
        InputError: If the splits fit no sample, or leave none for training or testing.
    """
    if meta.split_of:
        return _of_meta(source, joined, meta)
    if joined.split_folders is None:
        return (
            joined,
            split_by_blocks(len(joined), config.block, config.test_fraction, config.split_seed),
            [],
        )
    folders = sorted(pc.unique(joined.split_folders).to_pylist())
    told = partition(folders, source.splits, "folders of splits")
    if told.splits is None:
        raise InputError(
            f"data.source.splits: the folders {', '.join(folders)} do not tell which are for training and "
            "which for testing; say it: {train: [" + folders[0] + "], test: [...]}"
        )
    split_of = dict(zip(told.names, told.splits, strict=True))
    used = joined.only(pc.indices_nonzero(pc.is_in(joined.split_folders, texts(told.names, pa.string()))))
    assert used.split_folders is not None
    return used, [split_of[folder] for folder in used.split_folders.to_pylist()], list(told.notes)


def _of_meta(source: FolderSource, joined: Joined, meta: Meta) -> tuple[Joined, list[SplitName], list[str]]:
    """The listed names that exist, their splits, and what a person should know of the others.

    Raises:
        InputError: If none exists.
    """
    listed = texts(meta.split_of)
    used = joined.only(pc.indices_nonzero(pc.is_in(joined.names, listed)))
    if not len(used):
        raise InputError(
            f"{source.meta}: none of the {len(meta.split_of)} names in `splits` is a sample; "
            f"it has {next(iter(meta.split_of))!r}, the folder has {joined.names[0].as_py()!r}"
        )
    notes = []
    if unlisted := len(joined) - len(used):
        notes.append(f"{unlisted} samples are in none of the splits of {source.meta} and left out")
    if missing := len(listed) - len(used):
        example = listed.filter(pc.invert(pc.is_in(listed, used.names)))[0].as_py()
        notes.append(f"{missing} names in the splits of {source.meta} have no file, such as {example!r}")
    return used, [meta.split_of[name] for name in used.names.to_pylist()], notes
