"""The labelled part of NYU Depth v2: one MATLAB file of version 7.3, which is HDF5.

MATLAB counts axes from the other end: a picture of 480 x 640 x 3 is stored as (3, 640, 480), so every
array is turned. Depth is in metres; label 0 means none.

Source: Silberman 2012 (Indoor segmentation and support inference from RGBD images).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.containers import Nyuv2Source
from pipeline.config.data import Data
from pipeline.config.pictures import DepthSection
from pipeline.data.modality import Sample, SplitName
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.files import picture_of
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.sources.hdf5 import array_in, opened, read, require_h5py
from pipeline.data.sources.label_table import seg_section
from pipeline.data.sources.rows import Rows
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import InputError

_FINE_M = 0.001
_UNLABELLED = 0
_MOST_BYTES = 1 << 24
_AXES = {"rgb": (2, 1, 0), "depth": (1, 0), "seg": (1, 0)}
"""Of a stored frame, in the order of a picture: height, width, channel."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, by its place in the file."""

    number: int

    @property
    def key(self) -> str:
        """As people count: from 1."""
        return f"{self.number + 1:04d}"

    def __str__(self) -> str:
        return f"frame {self.number + 1}"


@dataclass(frozen=True)
class Frames:
    """Which frames are taken.

    Attributes:
        numbers: Their places in the file, counted from 0.
    """

    numbers: Any

    def entry(self, place: int) -> Frame:
        """The frame at a position."""
        return Frame(int(self.numbers[place]))


@dataclass(frozen=True)
class Nyuv2Samples:
    """Loads frames; only those are read.

    Attributes:
        file: The .mat file.
        arrays: Name of the array in it, per modality.
        assembly: What becomes of the pictures.
    """

    file: Path
    arrays: tuple[tuple[str, str], ...]
    assembly: Assembly

    def __call__(self, entries: Sequence[Frame]) -> Iterator[Sample | Refusal]:
        """Load some frames.

        Raises:
            InputError: If the file is not what it was any more.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(opened(self.file))
                stored = {modality: array_in(file, name) for modality, name in self.arrays}
            except Refused as refused:
                raise InputError(f"{self.file}: {refused.detail}; it was there when the run began") from None
            for frame in entries:
                try:
                    pictures = {
                        modality: picture_of(
                            read(array, frame.number).transpose(_AXES[modality]),
                            f"{array.name[1:]} of {frame}",
                        )
                        for modality, array in stored.items()
                    }
                    yield self.assembly.sample(frame.key, str(frame), pictures)
                except Refused as refused:
                    yield Refusal(str(frame), refused.reason, refused.detail, refused.remedy)


def open_nyuv2(config: Data, source: Nyuv2Source) -> Catalogue:
    """The frames of the file.

    Raises:
        InputError: If h5py or a file is missing, or the file is not that of NYU Depth v2.
    """
    held_out_values(config.held_out.factors, ())
    require_h5py()
    path = source.root / source.file
    names = {
        "rgb": "images" if source.rgb else None,
        "depth": source.depth,
        "seg": None if source.labels is None else "labels",
    }
    arrays = tuple((modality, name) for modality, name in names.items() if name is not None)
    count = _count(path, arrays)
    numbers, splits, notes = _splits(config, source, count)
    assembly = assembly_for(
        config,
        None if source.depth is None else DepthSection(unit="m"),
        None if source.labels is None else seg_section(source.labels, source.root, (_UNLABELLED,)),
        None,
    )
    return Catalogue(
        entries=Rows(len(numbers), Frames(numbers).entry),
        splits=splits,
        load=Nyuv2Samples(path, arrays, assembly),
        class_names=assembly.class_names,
        depth_scale_m=_FINE_M,
        description=source.model_dump(mode="json", exclude={"root"}),
        notes=notes,
    )


def _count(path: Path, arrays: Sequence[tuple[str, str]]) -> int:
    """How many frames there are.

    Raises:
        InputError: If the file or an array is not there, or arrays do not fit each other.
    """
    shapes = {}
    hint = "; is it the file of version 7.3, nyu_depth_v2_labeled.mat?"
    try:
        with opened(path) as file:
            for modality, name in arrays:
                shapes[name] = array_in(file, name).shape
                if len(shapes[name]) != len(_AXES[modality]) + 1:
                    raise InputError(f"{path}: {name} has the shape {shapes[name]}{hint}")
    except Refused as refused:
        raise InputError(f"{path}: {refused.detail}{hint}") from None
    if len({(shape[0], shape[-2:]) for shape in shapes.values()}) > 1:
        raise InputError(f"{path}: its arrays do not fit each other: {shapes}")
    return int(next(iter(shapes.values()))[0])


def _splits(config: Data, source: Nyuv2Source, count: int) -> tuple[Any, list[SplitName], tuple[str, ...]]:
    """Numbers of the frames that are taken, their splits, and what a person should know.

    Raises:
        InputError: If the lists do not fit the frames.
    """
    if source.splits is None:
        divided = split_by_blocks(count, config.block, config.test_fraction, config.split_seed)
        note = (
            "frames come from videos; data.source.splits names the official lists that keep scenes together"
        )
        return np.arange(count), divided, (note,) if config.block == 1 else ()
    path = source.root / source.splits
    listed = _listed(path)
    split_of: dict[int, SplitName] = {}
    for split, frames in listed.items():
        for frame in frames:
            if not isinstance(frame, int) or not 1 <= frame <= count:
                raise InputError(f"{path}: {split} has frame {frame}; there are 1..{count}")
            if split_of.setdefault(frame - 1, split) != split:
                raise InputError(f"{path}: frame {frame} is in both splits; a frame belongs to one")
    left_out = count - len(split_of)
    notes = (f"{left_out} of {count} frames are in no split of {source.splits} and left out",)
    numbers = np.array(sorted(split_of), np.int32)
    return numbers, [split_of[number] for number in numbers.tolist()], notes if left_out else ()


def _listed(path: Path) -> dict[SplitName, list[int]]:
    """Frames for training and for testing, counted from 1.

    Raises:
        InputError: If the file is missing or malformed.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: more than {_MOST_BYTES:,} bytes; lists of frames are smaller")
        if path.suffix.lower() == ".json":
            stored: Any = json.loads(path.read_text(encoding="utf-8"))
            lists = {split: stored[split] for split in ("train", "test")}
        else:
            from scipy.io import loadmat

            stored = loadmat(path, variable_names=["trainNdxs", "testNdxs"])
            lists = {split: np.ravel(stored[f"{split}Ndxs"]).tolist() for split in ("train", "test")}
    except FileNotFoundError:
        raise InputError(
            f"data.source.splits: there is no file {path}; name it relative to data.source.root"
        ) from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged file may make a decoder raise anything)
        raise InputError(
            f"{path}: not lists of frames ({error}); it is splits.mat with trainNdxs and testNdxs, or JSON "
            'with {"train": [1, ...], "test": [...]}'
        ) from None
    return lists
