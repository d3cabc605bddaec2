"""Where samples come from: one section per kind of source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.containers import Container, ListedSplit, Texts
from pipeline.config.existing import DatasetSource
from pipeline.config.pictures import DepthSection, SegSection
from pipeline.config.section import Count, Fraction, Positive, Section


class RoomsSource(Section):
    """One object in a room: the Shapes3D factors and, around them, nuisances."""

    kind: Literal["rooms"]
    count: Positive = 12_000
    """Number of rooms, drawn without repetition from the grid of 480,000 factor combinations."""
    seed: Count = 0
    """Chooses which rooms are drawn and their nuisances."""
    nuisance: Fraction = 1.0
    """Strength of what the factors do not name (camera, light, texture, position); 0 switches it off."""
    antialias: bool = True
    """Smooth RGB edges; depth and segmentation are never blended."""
    sensor_noise: bool = False
    """Kinect-like depth noise, missing depth at edges and RGB read noise."""


class TabletopSource(Section):
    """One to several objects on a table."""

    kind: Literal["tabletop"]
    count: Positive = 12_000
    """Number of scenes."""
    seed: Count = 0
    """Chooses the scenes."""
    max_objects: Annotated[int, Field(ge=1, le=16)] = 6
    """Most objects in a scene; each scene draws 1 to this many."""
    antialias: bool = True
    """Smooth RGB edges; depth and segmentation are never blended."""
    sensor_noise: bool = True
    """Kinect-like depth noise, missing depth at edges and RGB read noise."""


def _regular_expression(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        groups = set(re.compile(text).groupindex) - {"split"}
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if not groups:
        raise ValueError("it needs a named group that tells samples apart, such as (?P<id>[0-9]+)")
    return text


Pattern = Annotated[str | None, AfterValidator(_regular_expression)]


class FolderRgb(Section):
    """Where the RGB images are."""

    directory: str | None = None
    """Folder of this modality; null: that of the layout (rgb; leftImg8bit). Sub-folders belong to it."""
    suffix: str | None = None
    """Removed from the end of a file's stem before it is matched (`_rgb` for `0001_rgb.jpg`)."""
    pattern: Pattern = None
    """Instead of both, a regular expression of the whole path below `root`; its named groups join the files
    of a sample, and a group `split` tells its split."""


class FolderDepth(DepthSection):
    """Where the depth maps are and what a stored number means."""

    directory: str | None = None
    """Folder of this modality; null: that of the layout (depth; disparity). Sub-folders belong to it."""
    suffix: str | None = None
    """Removed from the end of a file's stem before it is matched."""
    pattern: Pattern = None
    """Instead of both, a regular expression of the whole path below `root`."""


class FolderSeg(SegSection):
    """Where the label maps are and what their values mean."""

    directory: str | None = None
    """Folder of this modality; null: that of the layout (seg; gtFine). Sub-folders belong to it."""
    suffix: str | None = None
    """Removed from the end of a file's stem before it is matched."""
    pattern: Pattern = None
    """Instead of both, a regular expression of the whole path below `root`."""


class FolderSource(Section):
    """A tree of files, one per modality and sample, joined by what their paths have in common."""

    kind: Literal["folder"]
    root: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        json_schema_extra={"affects_result": False}
    )
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    layout: Literal["flat", "splits", "cityscapes"] = "flat"
    """flat: rgb/NAME.png; splits: train/rgb/NAME.png, as MultiMAE and 4M have it; cityscapes:
    leftImg8bit/train/CITY/NAME_leftImg8bit.png."""
    splits: dict[ListedSplit, Texts] = Field(default={})
    """Which folders of splits are for what (`{train: [train, train_extra], test: val}`); others are left out.
    Empty: their names tell."""
    rgb: FolderRgb | None = FolderRgb()
    """RGB images, or null when there are none."""
    depth: FolderDepth | None = None
    """Depth maps, or null when there are none."""
    seg: FolderSeg | None = FolderSeg()
    """Label maps, or null when there are none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the label values. Empty: read from `meta`, else named by number."""
    meta: str | None = None
    """A JSON file under `root` with `classes` and, if wanted, `splits: {train: [stem, ...], test: [...]}`."""

    @model_validator(mode="after")
    def _has_a_modality(self) -> FolderSource:
        if self.rgb is None and self.depth is None and self.seg is None:
            raise ValueError("rgb, depth and seg are all null; at least one modality is needed")
        return self

    @model_validator(mode="after")
    def _patterns_name_the_same_groups(self) -> FolderSource:
        places = {"rgb": self.rgb, "depth": self.depth, "seg": self.seg}
        patterns = {name: place.pattern for name, place in places.items() if place and place.pattern}
        groups = {name: sorted(re.compile(pattern).groupindex) for name, pattern in patterns.items()}
        if len({tuple(names) for names in groups.values()}) > 1:
            listed = "; ".join(f"{name}: {', '.join(names)}" for name, names in groups.items())
            raise ValueError(f"the patterns must have the same named groups, which join the files; {listed}")
        if patterns and len(patterns) < sum(place is not None for place in places.values()):
            missing = next(name for name, place in places.items() if place and not place.pattern)
            raise ValueError(f"{missing} needs a pattern too (or set it to null), since the others have one")
        return self


Source = Annotated[
    RoomsSource | TabletopSource | FolderSource | Container | DatasetSource, Field(discriminator="kind")
]
