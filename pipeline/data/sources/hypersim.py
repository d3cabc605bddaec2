"""Hypersim as it is downloaded: scenes of HDF5 pictures, depth along the line of sight, NYU40 labels.

    ai_001_001/images/scene_cam_00_final_hdf5/frame.0000.color.hdf5
    ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg
    ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5
                                                 .semantic.hdf5, .render_entity_id.hdf5

Source: Roberts 2021 (arXiv:2011.02523).
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pipeline.config.containers import HypersimSource
from pipeline.config.data import Data
from pipeline.config.pictures import DepthSection
from pipeline.data.modality import MODALITIES, Sample, SplitName
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.files import Picture, picture_of, read_picture
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.sources.hdf5 import array_in, opened, read, require_h5py
from pipeline.data.sources.label_table import seg_section
from pipeline.data.sources.rows import Rows, short_keys
from pipeline.data.sources.tree import leads_outside
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import InputError

_FINE_M = 0.001
_VOID = -1
_NO_ENTITY = -1
_FOLDERS = {
    "preview": "final_preview",
    "color": "final_hdf5",
    "depth": "geometry_hdf5",
    "seg": "geometry_hdf5",
}
_ENDINGS = {
    "preview": "tonemap.jpg",
    "color": "color.hdf5",
    "depth": "depth_meters.hdf5",
    "seg": "semantic.hdf5",
}
_FRAME = re.compile(r"frame\.(\d{4,8})\.")
_CAMERA = re.compile(r"scene_(cam_\w+?)_(final_hdf5|final_preview|geometry_hdf5)")
_FRAME_DIGITS = 8
_MOST_SPLIT_LINES = 10_000_000


@dataclass(frozen=True, slots=True)
class View:
    """One frame of one camera.

    Attributes:
        key: Unique and safe.
        scene: As in `ai_001_001`.
        camera: As in `cam_00`.
        frame: Its number.
        have: The modalities that have a file.
    """

    key: str
    scene: str
    camera: str
    frame: int
    have: tuple[str, ...]

    def file(self, root: Path, folder: str, ending: str) -> Path:
        """One of its files."""
        return (
            root
            / self.scene
            / "images"
            / f"scene_{self.camera}_{folder}"
            / f"frame.{self.frame:04d}.{ending}"
        )

    def __str__(self) -> str:
        return f"{self.scene}/{self.camera}/{self.frame:04d}"


@dataclass(frozen=True)
class Views:
    """All views in columns.

    Attributes:
        cameras: (scene, camera) of each camera.
        keys: A safe name of each camera.
        camera: Number of each view's camera.
        frame: Number of each view's frame.
        have: Bits of the modalities that each view has files of.
    """

    cameras: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    camera: Any
    frame: Any
    have: Any

    def entry(self, place: int) -> View:
        """The view at a position."""
        scene, camera = self.cameras[self.camera[place]]
        have = tuple(m for bit, m in enumerate(MODALITIES) if self.have[place] >> bit & 1)
        frame = int(self.frame[place])
        return View(f"{self.keys[self.camera[place]]}-{frame:04d}", scene, camera, frame, have)


@dataclass(frozen=True)
class HypersimSamples:
    """Loads one view.

    Attributes:
        root: The folder.
        rgb: Whether the preview or the HDF5 picture is read.
        assembly: What becomes of the pictures.
    """

    root: Path
    rgb: str | None
    assembly: Assembly

    def __call__(self, view: View) -> Sample:
        """Load one view.

        Raises:
            Refused: If one of its files cannot be used, or they differ in size.
        """
        pictures = {modality: self._picture(view, modality) for modality in view.have}
        return self.assembly.sample(view.key, str(view), pictures)

    def _picture(self, view: View, modality: str) -> Picture:
        what = self.rgb if modality == "rgb" else modality
        assert what is not None
        path = view.file(self.root, _FOLDERS[what], _ENDINGS[what])
        if leads_outside(path, self.root):
            raise Refused("link", f"{path.name} is a link out of the folder", "put the file itself there")
        if what == "preview":
            return read_picture(path)
        array = _dataset(path)
        if what == "color":
            entities = view.file(self.root, _FOLDERS["seg"], "render_entity_id.hdf5")
            valid = _dataset(entities) != _NO_ENTITY if entities.is_file() else np.ones(array.shape[:2], bool)
            array = tone_mapped(array, valid)
        return picture_of(array, path.name)


def tone_mapped(
    radiance: Float[np.ndarray, "height width 3"], valid: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of 8 bits from radiance: the 90th percentile of brightness becomes 0.8, then gamma 1/2.2.

    Args:
        radiance: Linear, without an upper end.
        valid: Pixels that count for the percentile.

    Source: scene_generate_images_tonemap.py of Hypersim.
    """
    gamma, percentile, desired, least = 1 / 2.2, 90, 0.8, 0.0001
    colour = np.nan_to_num(
        radiance.astype(np.float64), nan=0.0, posinf=float(np.finfo(np.float16).max), neginf=0.0
    )
    brightness = 0.3 * colour[..., 0] + 0.59 * colour[..., 1] + 0.11 * colour[..., 2]
    now = float(np.percentile(brightness[valid], percentile)) if valid.any() else 1.0
    scale = 0.0 if now < least else desired ** (1 / gamma) / now
    mapped = np.maximum(scale * colour, 0) ** gamma
    return (np.clip(mapped, 0, 1) * 255).astype(np.uint8)


def open_hypersim(config: Data, source: HypersimSource) -> Catalogue:
    """The views in the folder.

    Raises:
        InputError: If h5py, the folder or its files are missing.
    """
    held_out_values(config.held_out.factors, ())
    require_h5py()
    if not source.root.is_dir():
        raise InputError(
            f"data.source.root: there is no folder {source.root}; name the one that holds ai_001_001"
        )
    wanted = {
        "rgb": source.rgb,
        "depth": "depth" if source.depth else None,
        "seg": None if source.labels is None else "seg",
    }
    views = _views(source.root, {modality: what for modality, what in wanted.items() if what is not None})
    views, splits, notes = _splits(config, source, views)
    for bit, modality in enumerate(MODALITIES):
        count = int((views.have >> bit & 1).sum())
        if wanted[modality] is not None and count < len(views.frame):
            notes.append(
                f"{len(views.frame) - count} of {len(views.frame)} views lack {modality}; it is missing there"
            )
    assembly = assembly_for(
        config,
        DepthSection(unit="m", distance="ray", focal_px=source.focal_px, invalid=(0.0, "nan", "inf"))
        if source.depth
        else None,
        None if source.labels is None else seg_section(source.labels, source.root, (_VOID,)),
        None,
    )
    return Catalogue(
        entries=Rows(len(views.frame), views.entry),
        splits=splits,
        load=OneByOne(HypersimSamples(source.root.resolve(), source.rgb, assembly)),
        class_names=assembly.class_names,
        depth_scale_m=_FINE_M,
        description=source.model_dump(mode="json", exclude={"root"}),
        notes=tuple(notes),
    )


def _views(root: Path, wanted: Mapping[str, str]) -> Views:
    """Every frame that has a file of something wanted, in the order of scenes, cameras and frames.

    Raises:
        InputError: If there is none.
    """
    found: dict[tuple[str, str], dict[int, int]] = {}
    for directory in sorted(root.glob("*/images/scene_cam_*")):
        named = _CAMERA.fullmatch(directory.name)
        if named is None or not directory.resolve().is_relative_to(root.resolve()):
            continue
        frames = found.setdefault((directory.parts[-3], named[1]), {})
        for modality, what in wanted.items():
            if _FOLDERS[what] == named[2]:
                for path in directory.iterdir():
                    number = _FRAME.match(path.name)
                    if number and path.name == f"frame.{number[1]}.{_ENDINGS[what]}":
                        frame = int(number[1])
                        frames[frame] = frames.get(frame, 0) | 1 << MODALITIES.index(modality)
    rows = [
        (place, frame, found[camera][frame])
        for place, camera in enumerate(found)
        for frame in sorted(found[camera])
    ]
    if not rows:
        what = next(iter(wanted.values()))
        example = f"ai_001_001/images/scene_cam_00_{_FOLDERS[what]}/frame.0000.{_ENDINGS[what]}"
        raise InputError(f"data.source.root: {root} has no file like {example}")
    camera, frame, have = np.array(rows, np.int32).T
    keys = short_keys([f"{scene}-{name}" for scene, name in found], _FRAME_DIGITS + 1)
    return Views(tuple(found), keys, camera, frame, have.astype(np.int8))


def _splits(config: Data, source: HypersimSource, views: Views) -> tuple[Views, list[SplitName], list[str]]:
    count = len(views.frame)
    if source.splits is None:
        return views, split_by_blocks(count, config.block, config.test_fraction, config.split_seed), []
    path = source.root / source.splits
    split_of = dict(_listed(path))
    splits = [
        split_of.get((*views.cameras[camera], frame))
        for camera, frame in zip(views.camera, views.frame, strict=True)
    ]
    kept = np.array([split is not None for split in splits])
    told = [split for split in splits if split is not None]
    for split in ("train", "test"):
        if split not in told:
            raise InputError(
                f"{path}: none of the {count} views is for {split}; set data.source.splits: null, or get more"
            )
    left_out = int((~kept).sum())
    notes = (
        [f"{left_out} of {count} views are in no split of {source.splits} and left out"] if left_out else []
    )
    some = replace(views, camera=views.camera[kept], frame=views.frame[kept], have=views.have[kept])
    return some, told, notes


def _listed(path: Path) -> Iterator[tuple[tuple[str, str, int], SplitName]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                if number > _MOST_SPLIT_LINES:
                    raise InputError(f"{path}: more than {_MOST_SPLIT_LINES:,} lines")
                if (split := row["split_partition_name"]) in ("train", "val", "test"):
                    yield (row["scene_name"], row["camera_name"], int(row["frame_id"])), split
    except FileNotFoundError:
        raise InputError(
            f"data.source.splits: there is no file {path}; name it relative to data.source.root"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not like metadata_images_split_scene_v1.csv ({error}); its columns are scene_name, "
            "camera_name, frame_id and split_partition_name"
        ) from None


def _dataset(path: Path) -> np.ndarray:
    with opened(path) as file:
        return read(array_in(file, "dataset"))
