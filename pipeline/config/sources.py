"""Where samples come from: one section per kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.containers import Container
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


class FolderRgb(Section):
    """Where the RGB images are."""

    directory: str = "rgb"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched (`_rgb` for `0001_rgb.jpg`)."""


class FolderDepth(DepthSection):
    """Where the depth maps are and what a stored number means."""

    directory: str = "depth"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched."""


class FolderSeg(SegSection):
    """Where the label maps are and what their values mean."""

    directory: str = "seg"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched."""


class FolderSource(Section):
    """A tree of images, joined on the stem of the file name."""

    kind: Literal["folder"]
    root: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        json_schema_extra={"affects_result": False}
    )
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    rgb: FolderRgb | None = FolderRgb()
    """RGB images (PNG or JPEG), or null when there are none."""
    depth: FolderDepth | None = None
    """Depth maps (16-bit PNG or .npy), or null when there are none."""
    seg: FolderSeg | None = FolderSeg()
    """Label maps (8-bit PNG or .npy), or null when there are none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the label values. Empty: read from `meta`, else named by number."""
    meta: str | None = None
    """A JSON file under `root` with `classes` and, if wanted, `splits: {train: [stem, ...], test: [...]}`."""

    @model_validator(mode="after")
    def _has_a_modality(self) -> FolderSource:
        if self.rgb is None and self.depth is None and self.seg is None:
            raise ValueError("rgb, depth and seg are all null; at least one modality is needed")
        return self


Source = Annotated[RoomsSource | TabletopSource | FolderSource | Container, Field(discriminator="kind")]
