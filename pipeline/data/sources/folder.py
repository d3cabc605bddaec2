"""A person's own data: trees of RGB, depth and labels whose files belong together by name.

The name of a sample is its files' path below the modality's folder, without the extension and
without the configured suffix: `rgb/kitchen/0001_rgb.jpg` and `depth/kitchen/0001_depth.png` are
both `kitchen/0001` with suffixes `_rgb` and `_depth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.data import Data
from pipeline.config.sources import FolderSource
from pipeline.data.keys import natural, unique_keys
from pipeline.data.modality import IGNORE_INDEX, Sample, SplitName
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.files import read_picture
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.sources.meta import Meta, read_meta
from pipeline.data.sources.tree import Place, join_trees, leads_outside
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import InputError

_ARRAY_DEPTH_SCALE_M = 0.001


@dataclass(frozen=True)
class FolderEntry:
    """The files of one sample.

    Attributes:
        key: Unique and safe.
        name: What its owner calls it.
        files: Path per modality that it has.
    """

    key: str
    name: str
    files: dict[str, Path]

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
            Refused: If one of its files cannot be used, or they differ in size.
        """
        for path in entry.files.values():
            if leads_outside(path, self.root):
                raise Refused(
                    "link", f"{path.name} is a link out of {self.root.name}", "put the file itself there"
                )
        pictures = {modality: read_picture(path) for modality, path in entry.files.items()}
        return self.assembly.sample(entry.key, entry.name, pictures)


def open_folder(config: Data, source: FolderSource) -> Catalogue:
    """What the folder has.

    Raises:
        InputError: If folders, files or `meta.json` are not there or do not fit each other.
    """
    held_out_values(config.held_out.factors, ())
    meta = Meta() if source.meta is None else read_meta(source.root / source.meta)
    classes = _class_names(source, meta)
    configured = {"rgb": source.rgb, "depth": source.depth, "seg": source.seg}
    places = [Place(m, place.directory, place.suffix) for m, place in configured.items() if place is not None]
    files = join_trees(source.root, places)
    names = sorted(files, key=natural)
    notes = []
    if incomplete := sum(len(files[name]) < len(places) for name in names):
        notes.append(f"{incomplete} of {len(names)} samples lack a modality; it counts as missing there")
    if meta.split_of:
        names, splits, note = _explicit_splits(source, names, meta)
        notes += note
    else:
        splits = split_by_blocks(len(names), config.block, config.test_fraction, config.split_seed)
    assembly = assembly_for(config, source.depth, source.seg, classes)
    arrays = any(files[name]["depth"].suffix.lower() == ".npy" for name in names if "depth" in files[name])
    return Catalogue(
        entries=[
            FolderEntry(key, name, files[name]) for key, name in zip(unique_keys(names), names, strict=True)
        ],
        splits=splits,
        load=OneByOne(FolderSamples(source.root.resolve(), assembly)),
        class_names=assembly.class_names,
        depth_scale_m=_ARRAY_DEPTH_SCALE_M if arrays else assembly.depth_scale_m,
        description=source.model_dump(mode="json", exclude={"root"}),
        notes=tuple(notes),
    )


def _class_names(source: FolderSource, meta: Meta) -> tuple[str, ...]:
    classes = source.classes or meta.classes
    where = "data.source.classes" if source.classes else f"{source.meta}: classes"
    if len(classes) > IGNORE_INDEX:
        raise InputError(
            f"{where}: {len(classes)} classes; labels are 8-bit, so at most {IGNORE_INDEX} are possible"
        )
    if repeated := sorted({name for name in classes if classes.count(name) > 1}):
        raise InputError(f"{where}: {repeated[0]!r} is named twice; names tell classes apart")
    return classes


def _explicit_splits(
    source: FolderSource, names: Sequence[str], meta: Meta
) -> tuple[list[str], list[SplitName], list[str]]:
    """The listed names that exist, their splits, and what a person should know of the others.

    Raises:
        InputError: If none exists.
    """
    listed = [name for name in names if name in meta.split_of]
    if not listed:
        raise InputError(
            f"{source.meta}: none of the {len(meta.split_of)} names in `splits` is a sample; "
            f"it has {next(iter(meta.split_of))!r}, the folder has {names[0]!r}"
        )
    notes = []
    if unlisted := len(names) - len(listed):
        notes.append(f"{unlisted} samples are in none of the splits of {source.meta} and left out")
    if missing := len(meta.split_of) - len(listed):
        example = next(name for name in meta.split_of if name not in set(listed))
        notes.append(f"{missing} names in the splits of {source.meta} have no file, such as {example!r}")
    return listed, [meta.split_of[name] for name in listed], notes
