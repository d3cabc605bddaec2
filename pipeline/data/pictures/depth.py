"""From stored depth to planar depth in metres."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from pipeline.config.pictures import DepthSection
from pipeline.data.pictures.files import Picture
from pipeline.data.refusal import Refused

UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "0.1mm": 0.0001, "tum": 1 / 5000, "kitti": 1 / 256}

_CITYSCAPES_UNIT_PX = 1 / 256
_CITYSCAPES_OFFSET = 1
_PLAIN_SCALE_M = 0.001


@dataclass(frozen=True)
class DepthReading:
    """How stored numbers become metres.

    Attributes:
        section: What its owner said.
        unit: Metres per stored unit; pixels per stored unit of a disparity.
        offset: Subtracted from a stored value first.
    """

    section: DepthSection
    unit: float
    offset: float = 0.0

    @property
    def scale_m(self) -> float:
        """Metres per unit of a 16-bit PNG that loses nothing stored as integers."""
        linear = self.section.encoding == "linear" and self.section.distance == "planar"
        return self.unit if linear else _PLAIN_SCALE_M


def depth_reading(section: DepthSection) -> DepthReading:
    """What a config section means."""
    if section.unit == "cityscapes":
        return DepthReading(section, _CITYSCAPES_UNIT_PX, _CITYSCAPES_OFFSET)
    return DepthReading(section, UNITS_M[section.unit] if isinstance(section.unit, str) else section.unit)


def depth_m(picture: Picture, reading: DepthReading) -> Float32[np.ndarray, "height width"]:
    """Planar depth in metres, NaN where there is no measurement.

    Raises:
        Refused: If it is lossy or in colour, or a depth is negative, NaN or infinite without leave.
    """
    stored = _stored(picture)
    valid = _valid(picture, stored, reading.section)
    if reading.section.encoding == "sunrgbd":
        stored = (stored >> 3) | (stored << 13)
    value = np.where(valid, stored, 1).astype(np.float64)
    if reading.section.encoding == "disparity":
        disparity_px = (value - reading.offset) * reading.unit
        valid &= disparity_px > 0
        assert reading.section.focal_px is not None
        assert reading.section.baseline_m is not None
        depth = reading.section.focal_px * reading.section.baseline_m / np.where(valid, disparity_px, 1)
    else:
        depth = value * reading.unit
    if reading.section.distance == "ray":
        depth /= ray_lengths(depth.shape[0], depth.shape[1], reading.section)
    return np.where(valid, depth, np.nan).astype(np.float32)


def ray_lengths(height: int, width: int, section: DepthSection) -> Float64[np.ndarray, "height width"]:
    """How long the line of sight of each pixel is where planar depth is 1.

    Source: Hypersim (Roberts 2021, arXiv:2011.02523), distance from the optical centre to planar depth:
        z = d * f / |(u - cx, v - cy, f)|, the principal point between the middle pixels.
    """
    assert section.focal_px is not None
    x, y = section.centre_px or ((width - 1) / 2, (height - 1) / 2)
    across = (np.arange(width) - x) / section.focal_px
    down = (np.arange(height) - y) / section.focal_px
    return np.sqrt(1 + across[None, :] ** 2 + down[:, None] ** 2)


def _stored(picture: Picture) -> Shaped[np.ndarray, "height width"]:
    if picture.format == "JPEG":
        raise Refused(
            "lossy_depth",
            f"{picture.name}: a JPEG changes depth",
            "save depth as 16-bit PNG, .npy or EXR from the original",
        )
    array = picture.array
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "uif" or picture.palette is not None:
        raise Refused(
            "wrong_channels",
            f"{picture.name}: {picture.what}",
            "save depth as one channel of numbers: 16-bit PNG or a .npy array",
        )
    return array


def _valid(
    picture: Picture, stored: Shaped[np.ndarray, "height width"], section: DepthSection
) -> Shaped[np.ndarray, "height width"]:
    valid = stored != 0
    for value in section.invalid:
        if not isinstance(value, str):
            valid &= stored != value
    checks = {"nan": np.isnan(stored), "inf": np.isinf(stored), "negative": stored < 0}
    for name, found in checks.items():
        found &= valid
        if name not in section.invalid and found.any():
            raise Refused(
                "bad_depth",
                f"{picture.name}: {int(found.sum())} pixels are {name}",
                f"mend the file, or, if that means no measurement, add {name} to the depth's `invalid`",
            )
        valid &= ~found
    return valid
