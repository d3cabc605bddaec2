"""What the numbers in a depth map or a label map mean; the same for every kind of source."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.section import Positive, PositiveFloat, Section

DepthUnit = Literal["m", "cm", "mm", "0.1mm", "tum", "kitti", "cityscapes"]
NoMeasurement = Literal["nan", "inf", "negative"]
Channel = Annotated[int, Field(ge=0, le=255)]


def _listed(value: Any) -> Any:
    """One value stands for a list of one; YAML's `.nan` and `.inf` for their names."""
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_named(each) if isinstance(each, float) else each for each in values)


def _named(value: float) -> float | str:
    if math.isnan(value):
        return "nan"
    return "inf" if value == math.inf else value


class DepthSection(Section):
    """What a stored depth means."""

    unit: DepthUnit | PositiveFloat
    """What one stored unit is: a name, or its length in metres (a disparity's: in pixels). Never guessed."""
    invalid: Annotated[tuple[float | NoMeasurement, ...], BeforeValidator(_listed)] = (0.0, "nan")
    """Stored values that mean no measurement, one or a list: numbers, nan, inf, negative. 0 always does; NaN,
    infinite and negative depth that is not listed is refused."""
    encoding: Literal["linear", "sunrgbd", "disparity"] = "linear"
    """linear: a multiple of the unit; sunrgbd: 16 bits rotated by three, as in SUN RGB-D; disparity:
    depth is focal_px * baseline_m / disparity."""
    distance: Literal["planar", "ray"] = "planar"
    """planar: along the optical axis; ray: along the line of sight, as in Hypersim, and made planar."""
    focal_px: PositiveFloat | None = None
    """Focal length in pixels of the stored picture; needed for disparities and rays."""
    centre_px: tuple[float, float] | None = None
    """Principal point [x, y] in pixels of the stored picture, for rays; null: the middle of the picture."""
    baseline_m: PositiveFloat | None = None
    """Distance of the two cameras; needed for disparities."""

    @model_validator(mode="after")
    def _has_what_its_geometry_needs(self) -> DepthSection:
        disparity = self.encoding == "disparity"
        if disparity and (self.focal_px is None or self.baseline_m is None):
            raise ValueError("encoding disparity needs focal_px and baseline_m")
        if self.distance == "ray" and (self.focal_px is None or disparity):
            raise ValueError(
                "distance ray needs focal_px"
                if not disparity
                else "a disparity gives planar depth; leave distance: ray out"
            )
        if disparity and isinstance(self.unit, str) and self.unit != "cityscapes":
            raise ValueError(
                f"unit {self.unit} is a length; for a disparity say cityscapes, or pixels per stored unit"
            )
        if self.unit == "cityscapes" and not disparity:
            raise ValueError(
                "unit cityscapes is a disparity; set encoding: disparity, focal_px and baseline_m"
            )
        return self


class SegSection(Section):
    """What a stored label means."""

    ignore: Annotated[tuple[int | str, ...] | None, BeforeValidator(_listed)] = None
    """Stored values that mean no label, one or a list; null: 255, unless that is a class. The name of a class
    makes it none."""
    colours: dict[str, tuple[Channel, Channel, Channel]] = Field(default={})
    """Class name to [red, green, blue], for label maps in colour; without `classes` they are the classes."""
    divisor: Positive = 1
    """Of instance ids: the class is the stored value divided by this, rounded down."""
    merge: dict[str, tuple[int | str, ...]] = Field(default={})
    """New class name to the stored values or old class names it takes. The new classes come in
    this order, then the rest."""
    rest: Literal["keep", "ignore"] = "keep"
    """What becomes of named classes that `merge` does not take: they stay classes, or have no label."""
