"""From stored depth to planar depth in metres."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

from pipeline.config.pictures import DepthSection
from pipeline.data.pictures.picture import Picture
from pipeline.data.refusal import Refused

UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "0.1mm": 0.0001, "tum": 1 / 5000, "kitti": 1 / 256}

_CITYSCAPES_UNIT_PX = 1 / 256
_CITYSCAPES_OFFSET = 1.0
_PLAIN_SCALE_M = 0.001
_UINT16_VALUES = 1 << 16


@dataclass(frozen=True)
class DepthReading:
    """How stored numbers become metres.

    Attributes:
        section: What its owner said.
        unit: Metres per stored unit; of a disparity, pixels.
        offset: Subtracted from a stored value first.
    """

    section: DepthSection
    unit: float
    offset: float = 0.0

    @property
    def is_multiple(self) -> bool:
        """Whether planar depth is a multiple of the unit where integers are stored."""
        return self.section.encoding != "disparity" and self.section.distance == "planar"

    @property
    def scale_m(self) -> float:
        """Metres per unit of a depth PNG, which loses nothing where depth is a multiple of the unit."""
        return self.unit if self.is_multiple else _PLAIN_SCALE_M


def depth_reading(section: DepthSection) -> DepthReading:
    """What a config section means."""
    if section.unit == "cityscapes":
        return DepthReading(section, _CITYSCAPES_UNIT_PX, _CITYSCAPES_OFFSET)
    return DepthReading(section, UNITS_M[section.unit] if isinstance(section.unit, str) else section.unit)


def depth_m(picture: Picture, reading: DepthReading) -> Float32[np.ndarray, "height width"]:
    """Planar depth in metres, NaN where there is no measurement.

    Raises:
        Refused: If it is lossy, in colour or of the wrong type, or a depth is negative, NaN or infinite
            and the section does not say that this means no measurement.
    """
    depth, metres = depth_and_table(picture, reading)
    return depth if metres is None else metres.take(depth)


def depth_and_table(
    picture: Picture, reading: DepthReading
) -> tuple[Shaped[np.ndarray, "height width"], Float32[np.ndarray, " value"] | None]:
    """Integers as stored with the metres of every stored value, so that only some pixels need converting.

    Returns:
        Both; or planar depth in metres and None, where no table can give it.

    Raises:
        Refused: As `depth_m`.
    """
    stored = _stored(picture, reading.section)
    listed = stored.dtype in (np.uint8, np.uint16)
    if listed and reading.section.distance == "planar":
        return stored, _of_every_uint16(reading)
    if listed:
        depth = _of_every_uint16(reading).take(stored)
    else:
        depth = _metres(stored, _measured(picture, stored, reading.section), reading)
    if reading.section.distance == "ray":
        depth = depth / ray_lengths(depth.shape[0], depth.shape[1], reading.section)
    return depth, None


@lru_cache(maxsize=2)
def ray_lengths(height: int, width: int, section: DepthSection) -> Float32[np.ndarray, "height width"]:
    """How long the line of sight of each pixel is where planar depth is 1.

    Distance d becomes planar depth z = d f / |(u - cx, v - cy, f)|. Unless the section says otherwise, the
    principal point (cx, cy) is in the middle of the picture.

    Source: Hypersim (Roberts 2021, arXiv:2011.02523), whose depth is the distance to the optical centre.
    """
    assert section.focal_px is not None
    x, y = section.centre_px or ((width - 1) / 2, (height - 1) / 2)
    across = (np.arange(width) - x) / section.focal_px
    down = (np.arange(height) - y) / section.focal_px
    return np.sqrt(1 + across[None, :] ** 2 + down[:, None] ** 2).astype(np.float32)


@lru_cache(maxsize=4)
def _of_every_uint16(reading: DepthReading) -> Float32[np.ndarray, " value"]:
    """Metres by stored value, so that a picture of integers takes one look-up per pixel."""
    stored = np.arange(_UINT16_VALUES, dtype=np.uint16)
    return _metres(stored, ~_means_none(stored, reading.section), reading)


def _metres(
    stored: Shaped[np.ndarray, "*shape"], measured: Bool[np.ndarray, "*shape"], reading: DepthReading
) -> Float32[np.ndarray, "*shape"]:
    section = reading.section
    if section.encoding == "sunrgbd":
        stored = (stored >> 3) | (stored << 13)
    value: Float64[np.ndarray, ...] = np.where(measured, stored, 1).astype(np.float64)
    if section.encoding == "disparity":
        assert section.focal_px is not None
        assert section.baseline_m is not None
        disparity_px = (value - reading.offset) * reading.unit
        measured = measured & (disparity_px > 0)
        metres = section.focal_px * section.baseline_m / np.where(measured, disparity_px, 1)
    else:
        metres = value * reading.unit
    return np.where(measured, metres, np.nan).astype(np.float32)


def _stored(picture: Picture, section: DepthSection) -> Shaped[np.ndarray, "height width"]:
    if picture.lossy:
        raise Refused(
            "lossy_depth",
            f"{picture.name}: {picture.what}: its compression changes depth",
            "save depth anew from the original: 16-bit PNG, .npy or EXR without loss",
        )
    array = picture.array
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "uif" or picture.palette is not None:
        raise Refused(
            "wrong_channels",
            f"{picture.name}: {picture.what}: not depth",
            "save depth as one channel of numbers: 16-bit PNG, .npy or EXR",
        )
    if section.encoding == "sunrgbd" and array.dtype != np.uint16:
        raise Refused(
            "wrong_channels",
            f"{picture.name}: {picture.what}: encoding sunrgbd rotates 16 bits",
            "save depth as 16-bit PNG, or leave out encoding: sunrgbd",
        )
    return array


def _means_none(stored: Shaped[np.ndarray, "*shape"], section: DepthSection) -> Bool[np.ndarray, "*shape"]:
    """Where the stored value is one that means no measurement."""
    none = stored == 0
    for value in section.invalid:
        match value:
            case "nan":
                none |= np.isnan(stored)
            case "inf":
                none |= np.isinf(stored)
            case "negative":
                none |= stored < 0
            case _:
                none |= stored == value
    return none


def _measured(
    picture: Picture, stored: Shaped[np.ndarray, "height width"], section: DepthSection
) -> Bool[np.ndarray, "height width"]:
    """Where there is a measurement.

    Raises:
        Refused: If a value is neither a measurement nor one that means none.
    """
    measured = np.isfinite(stored) & (stored > 0)
    none = _means_none(stored, section)
    if not (measured | none).all():
        row, column = np.argwhere(~(measured | none))[0].tolist()
        value = float(stored[row, column])
        name = "nan" if np.isnan(value) else "inf" if np.isinf(value) else "negative"
        count = int((~(measured | none)).sum())
        raise Refused(
            "bad_depth",
            f"{picture.name}: {count} pixels are no depth, such as {value:g} in row {row}, column {column}",
            f"mend the file; or, if that means no measurement, list {name} in the depth's `invalid`",
        )
    return measured & ~none
