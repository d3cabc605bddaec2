"""A person's own data: trees of RGB, depth and labels whose files belong together by name.

The name of a sample is its files' path below the modality's folder, without the extension and
without the configured suffix: `rgb/kitchen/0001_rgb.jpg` and `depth/kitchen/0001_depth.png` are
both `kitchen/0001` with suffixes `_rgb` and `_depth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.data import Data
from pipeline.config.sources import FolderSource
from pipeline.data.keys import natural, unique_keys
from pipeline.data.modality import IGNORE_INDEX, MODALITIES, Sample, SplitName
from pipeline.data.pictures.images import ARRAY_SUFFIX, Square, read_depth, read_rgb, read_seg
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.sources.meta import Meta, read_meta
from pipeline.data.sources.tree import Place, join_trees, leads_outside
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import InputError

UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "0.1mm": 0.0001}

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
        unit_m: Metres per stored unit of depth.
        invalid: Stored depth that means no measurement.
        ignore: Stored label that means none.
        classes: How many classes there are, if that is known.
        image_size: Height and width to bring pictures to.
    """

    root: Path
    unit_m: float
    invalid: float
    ignore: int
    classes: int | None
    image_size: int

    def __call__(self, entry: FolderEntry) -> Sample:
        """Load one sample.

        Raises:
            Refused: If one of its files cannot be used, or they differ in size.
        """
        files = entry.files
        for path in files.values():
            if leads_outside(path, self.root):
                raise Refused(
                    "link", f"{path.name} is a link out of {self.root.name}", "put the file itself there"
                )
        rgb = read_rgb(files["rgb"]) if "rgb" in files else None
        depth = read_depth(files["depth"], self.unit_m, self.invalid) if "depth" in files else None
        seg = read_seg(files["seg"], self.ignore, self.classes) if "seg" in files else None
        sizes = {m: a.shape[:2] for m, a in zip(MODALITIES, (rgb, depth, seg), strict=True) if a is not None}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(
                f"{modality} is {width} x {height}" for modality, (height, width) in sizes.items()
            )
            raise Refused("size_mismatch", listed, "export all modalities of a view at the same size")
        height, width = next(iter(sizes.values()))
        square = Square(height, width, self.image_size)
        depth = None if depth is None else square.depth(depth)
        if depth is not None and np.isnan(depth).all():
            raise Refused(
                "no_valid_depth",
                f"{files['depth'].name}: no pixel of the centred square has a depth",
                "leave the depth file out, or check data.source.depth.invalid",
            )
        return Sample(
            key=entry.key,
            rgb=None if rgb is None else square.rgb(rgb),
            depth=depth,
            seg=None if seg is None else square.seg(seg),
            origin=entry.name,
        )


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
    unit = None if source.depth is None else source.depth.unit
    unit_m = UNITS_M[unit] if isinstance(unit, str) else unit or 1.0
    arrays = any(
        files[name]["depth"].suffix.lower() == ARRAY_SUFFIX for name in names if "depth" in files[name]
    )
    return Catalogue(
        entries=[
            FolderEntry(key, name, files[name]) for key, name in zip(unique_keys(names), names, strict=True)
        ],
        splits=splits,
        load=OneByOne(
            FolderSamples(
                root=source.root.resolve(),
                unit_m=unit_m,
                invalid=0.0 if source.depth is None else source.depth.invalid,
                ignore=IGNORE_INDEX if source.seg is None else source.seg.ignore,
                classes=len(classes) or None,
                image_size=config.image_size,
            )
        ),
        class_names=classes or None,
        depth_scale_m=_ARRAY_DEPTH_SCALE_M if arrays or unit is None else unit_m,
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
