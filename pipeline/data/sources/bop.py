"""Scenes in the format of the BOP challenge: pictures, depth, and a visible mask per object.

    test/000001/scene_camera.json     {"0": {"cam_K": [...], "depth_scale": 0.1}, ...}
    test/000001/scene_gt.json         {"0": [{"obj_id": 5, ...}, ...], ...}
    test/000001/rgb/000000.png        or .jpg, .tif
    test/000001/depth/000000.png      times depth_scale: millimetres
    test/000001/mask_visib/000000_000000.png      picture, place in scene_gt

The masks of a picture become one label map by object. Where two masks overlap, which BOP's tolerance
allows at contacts, there is no label.

Source: https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from pipeline.config.containers import BopSource
from pipeline.config.data import Data
from pipeline.config.pictures import DepthSection, SegSection
from pipeline.data.modality import IGNORE_INDEX, Sample
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.depth import depth_reading
from pipeline.data.pictures.files import Picture, picture_of, read_picture
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.sources.partition import Partition, partition
from pipeline.data.sources.rows import Rows, short_keys
from pipeline.data.sources.tree import leads_outside
from pipeline.data.splits import held_out_values
from pipeline.data.storage import Storage
from pipeline.errors import InputError

CAMERAS, OBJECTS = "scene_camera.json", "scene_gt.json"

_MM = 0.001
_BACKGROUND, _SEVERAL = 0, -1
_MOST_BYTES = 1 << 28
_DIGITS = 6
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a scene.

    Attributes:
        key: Unique and safe.
        scene: Folder below the root.
        number: Of the picture.
        depth_scale_m: Metres per stored unit of its depth.
    """

    key: str
    scene: str
    number: int
    depth_scale_m: float

    def __str__(self) -> str:
        return f"{self.scene}/{self.number:0{_DIGITS}d}"


@dataclass(frozen=True)
class Shots:
    """All pictures in columns.

    Attributes:
        scenes: Folders below the root.
        keys: A safe name of each scene.
        scene: Number of each picture's scene.
        number: Of each picture in its scene.
        depth_scale_m: Of each picture.
    """

    scenes: tuple[str, ...]
    keys: tuple[str, ...]
    scene: Any
    number: Any
    depth_scale_m: Any

    def entry(self, place: int) -> Shot:
        """The picture at a position."""
        scene, number = int(self.scene[place]), int(self.number[place])
        key = f"{self.keys[scene]}-{number:0{_DIGITS}d}"
        return Shot(key, self.scenes[scene], number, float(self.depth_scale_m[place]))


@dataclass(frozen=True)
class BopSamples:
    """Loads one picture with its depth and masks.

    Attributes:
        root: The folder.
        rgb: Whether pictures are read.
        assembly: What becomes of them; `depth` and `seg` are None where they are not read.
    """

    root: Path
    rgb: bool
    assembly: Assembly

    def __call__(self, shot: Shot) -> Sample:
        """Load one picture.

        Raises:
            Refused: If one of its files cannot be used, or they differ in size.
        """
        scene = self.root / shot.scene
        pictures: dict[str, Picture] = {}
        if self.rgb and (path := _file(scene, "rgb", shot.number)):
            pictures["rgb"] = self._read(path)
        if self.assembly.depth is not None and (path := _file(scene, "depth", shot.number)):
            pictures["depth"] = self._read(path)
        if self.assembly.seg is not None and (masks := self._masks(scene, shot)) is not None:
            pictures["seg"] = picture_of(masks, f"masks of {shot}")
        if not pictures:
            raise Refused("missing", f"{shot} has no file in rgb or depth", "download the scene again")
        section = None if self.assembly.depth is None else _with_unit(self.assembly, shot.depth_scale_m)
        return replace(self.assembly, depth=section).sample(shot.key, str(shot), pictures)

    def _masks(self, scene: Path, shot: Shot) -> Int32[np.ndarray, "height width"] | None:
        """Object number of every pixel; 0 of none, -1 of several; None if the picture is not annotated.

        Raises:
            Refused: If a mask is missing or cannot be used.
        """
        objects = _read_json(scene / OBJECTS).get(str(shot.number))
        if objects is None:
            return None
        labels: Any = None
        for place, annotated in enumerate(objects):
            path = scene / "mask_visib" / f"{shot.number:0{_DIGITS}d}_{place:0{_DIGITS}d}.png"
            if not path.is_file():
                raise Refused("missing", f"mask_visib/{path.name} is not there", "download the scene again")
            mask = self._read(path).array
            if mask.ndim != 2:
                raise Refused(
                    "wrong_channels", f"{path.name}: a mask of shape {mask.shape}", "save one channel"
                )
            labels = np.zeros(mask.shape, np.int32) if labels is None else labels
            if mask.shape != labels.shape:
                raise Refused(
                    "size_mismatch", f"{path.name}: another size than the first mask", "download it again"
                )
            number = np.int32(_object(annotated, scene))
            alone = np.where(labels == _BACKGROUND, number, np.int32(_SEVERAL))
            labels = np.where(mask > 0, alone, labels)
        return labels if labels is not None else self._empty(scene, shot)

    def _empty(self, scene: Path, shot: Shot) -> Int32[np.ndarray, "height width"] | None:
        """A picture in which no object is."""
        path = _file(scene, "depth", shot.number) or _file(scene, "rgb", shot.number)
        return None if path is None else np.zeros(self._read(path).array.shape[:2], np.int32)

    def _read(self, path: Path) -> Picture:
        if leads_outside(path, self.root):
            raise Refused("link", f"{path.name} is a link out of the folder", "put the file itself there")
        return read_picture(path)


def open_bop(config: Data, source: BopSource) -> Catalogue:
    """The pictures of the scenes.

    Raises:
        InputError: If there is no scene, or a scene's JSON is not as BOP has it.
    """
    held_out_values(config.held_out.factors, ())
    storage = Storage(str(source.root))
    divided = partition(_scenes(storage, source), source.splits, "scenes")
    for modality, wanted in (("rgb", source.rgb), ("depth", source.depth)):
        if wanted and not any((source.root / scene / modality).is_dir() for scene in divided.names):
            raise InputError(
                f"data.source.{modality}: no scene has a folder {modality} ({divided.names[0]} ...); "
                f"set data.source.{modality}: false if there is none"
            )
    shots = _shots(source.root, divided)
    scales = np.unique(shots.depth_scale_m)
    names = _class_names(source, divided)
    section = SegSection(
        ignore=(_SEVERAL,) if source.background is not None else (_SEVERAL, _BACKGROUND),
        merge={
            **({} if source.background is None else {source.background: (_BACKGROUND,)}),
            **{name: (number,) for number, name in names.items()},
        },
    )
    assembly = assembly_for(
        config,
        DepthSection(unit=float(scales[0])) if source.depth else None,
        section if source.seg else None,
        None,
    )
    return Catalogue(
        entries=Rows(len(shots.number), shots.entry),
        splits=divided.of_samples(shots.scene.tolist(), config),
        load=OneByOne(BopSamples(source.root.resolve(), source.rgb, assembly)),
        class_names=assembly.class_names,
        depth_scale_m=float(scales[0]),
        whole_depth=len(scales) == 1,
        description=source.model_dump(mode="json", exclude={"root"}),
        notes=divided.notes,
    )


def _with_unit(assembly: Assembly, unit_m: float) -> Any:
    """How depth of one picture is read: as the others', with its own unit."""
    assert assembly.depth is not None
    return depth_reading(assembly.depth.section.model_copy(update={"unit": unit_m}))


def _scenes(storage: Storage, source: BopSource) -> list[str]:
    """Folders of the scenes below the root.

    Raises:
        InputError: If there is none, or one leads elsewhere.
    """
    found = storage.names(source.scenes, "data.source.scenes")
    for name in found:
        if PurePosixPath(name).name != CAMERAS:
            raise InputError(f"data.source.scenes: {name}: a pattern ends in /{CAMERAS}")
        if not (source.root / name).resolve().is_relative_to(source.root.resolve()):
            raise InputError(
                f"data.source.scenes: {name} is a link out of {source.root}; name the real folder"
            )
    return [str(PurePosixPath(name).parent) for name in found]


def _shots(root: Path, divided: Partition) -> Shots:
    scene_of, numbers, scales = [], [], []
    for place, scene in enumerate(divided.names):
        path = root / scene / CAMERAS
        cameras = _read_json(path)
        for number in sorted(cameras, key=_whole):
            scale = cameras[number].get("depth_scale", 1.0) if isinstance(cameras[number], dict) else None
            if not isinstance(scale, int | float) or not 0 < scale < np.inf or _whole(number) < 0:
                raise InputError(f'{path}: {number!r}: not like "0": {{"cam_K": [...], "depth_scale": 0.1}}')
            scene_of.append(place)
            numbers.append(int(number))
            scales.append(scale * _MM)
    if not numbers:
        raise InputError(f"{root}: the {len(divided.names)} scenes have no pictures")
    keys = short_keys(divided.names, _DIGITS + 4)
    return Shots(
        divided.names, keys, np.array(scene_of, np.int32), np.array(numbers, np.int32), np.array(scales)
    )


def _class_names(source: BopSource, divided: Partition) -> dict[int, str]:
    """Class name by object number; all objects that occur, where the config names none.

    Raises:
        InputError: If an object has no name, or there are too many.
    """
    if not source.seg:
        return {}
    seen: Counter[int] = Counter()
    for scene in divided.names:
        path = source.root / scene
        if (path / OBJECTS).is_file():
            seen.update(
                _object(one, path) for objects in _read_json(path / OBJECTS).values() for one in objects
            )
    if not seen:
        raise InputError(
            f"data.source.seg: no scene has a {OBJECTS} with objects; set data.source.seg: false"
        )
    if source.classes and (unnamed := sorted(set(seen) - set(source.classes))):
        raise InputError(
            f"data.source.classes: object {unnamed[0]} occurs and has no name; the scenes have objects "
            f"{', '.join(map(str, sorted(seen)))}"
        )
    names = dict(source.classes) or {number: f"object_{number}" for number in sorted(seen)}
    if len(names) >= IGNORE_INDEX:
        raise InputError(f"data.source.scenes: {len(names)} objects; at most {IGNORE_INDEX - 1} are possible")
    return names


def _file(scene: Path, modality: str, number: int) -> Path | None:
    """The file of a picture's modality, if it has one."""
    for suffix in _SUFFIXES:
        path = scene / modality / f"{number:0{_DIGITS}d}{suffix}"
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=4)
def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; each process keeps the last ones.

    Raises:
        InputError: If it is none.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: more than {_MOST_BYTES:,} bytes")
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: a JSON object is expected, not a {type(stored).__name__}")
    return stored


def _object(annotated: Any, scene: Path) -> int:
    number = annotated.get("obj_id") if isinstance(annotated, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f"{scene / OBJECTS}: {str(annotated)[:60]}: an object has an obj_id from 1")
    return number


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else -1
