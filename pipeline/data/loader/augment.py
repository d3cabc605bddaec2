"""Random changes of samples, the same for all modalities of one, a function of (seed, epoch, sample).

Flip and crop act on every modality: RGB is interpolated, depth and labels take the nearest pixel, since
the mean of two surfaces lies on neither. Colour changes act on RGB alone. Nothing depends on which
process does it, or on what it did before.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8
from PIL import Image

from pipeline.data.hashing import bits, keys_of
from pipeline.data.loader.arrays import Arrays

_STREAM = 11
"""Keeps these draws apart from others keyed by (seed, epoch, sample)."""

_DRAWS = 8
_GREY = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """How strong each change is; see `train.augment`.

    Attributes:
        seed: The run's seed.
    """

    seed: int
    flip: float = 0.0
    crop: float = 1.0
    rescale_depth: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def colours(self) -> bool:
        """Whether it changes colours."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0

    def apply(
        self, arrays: Arrays, epoch: Int64[np.ndarray, " row"], sample: Int64[np.ndarray, " row"]
    ) -> None:
        """Change the samples of a batch in place.

        Args:
            arrays: Rows that lack a modality are left as they are.
            epoch: In which each row is read.
            sample: Number of each row's sample.
        """
        if not (self.flip or self.crop < 1 or self.colours()):
            return
        for row, draws in enumerate(self.draws(epoch, sample)):
            self._move(arrays, row, draws)
            if self.colours() and "rgb" in arrays.value and arrays.present["rgb"][row]:
                arrays.value["rgb"][row] = self._coloured(arrays.value["rgb"][row], draws)

    def draws(
        self, epoch: Int64[np.ndarray, " row"], sample: Int64[np.ndarray, " row"]
    ) -> Float64[np.ndarray, "row 8"]:
        """Numbers in [0, 1): flip, crop's side, left and top, brightness, contrast, saturation, hue."""
        keys = keys_of(self.seed, epoch, sample, _STREAM)
        drawn = np.stack([bits(int(key), _DRAWS) for key in keys])
        return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _move(self, arrays: Arrays, row: int, draws: Float64[np.ndarray, " 8"]) -> None:
        share = 1 - (1 - self.crop) * float(draws[1])
        flipped = bool(draws[0] < self.flip)
        for modality, values in arrays.value.items():
            if not arrays.present[modality][row]:
                continue
            picture = values[row]
            if self.crop < 1:
                size = len(picture)
                side = share * size
                left, top = (size - side) * float(draws[2]), (size - side) * float(draws[3])
                picture = _cropped(picture, left, top, side)
                if modality == "depth" and self.rescale_depth:
                    picture = picture * np.float32(share)
            values[row] = picture[:, ::-1].copy() if flipped else picture

    def _coloured(
        self, rgb: UInt8[np.ndarray, "height width 3"], draws: Float64[np.ndarray, " 8"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Brightness, contrast, saturation and hue are linear in colour, so they are one matrix."""
        brightness, contrast, saturation, turn = (
            strength * (2 * float(draw) - 1)
            for strength, draw in zip(
                (self.brightness, self.contrast, self.saturation, self.hue), draws[4:], strict=True
            )
        )
        channels = [rgb[..., channel].astype(np.float32) for channel in range(3)]
        means = [float(np.sum(channel, dtype=np.float64)) / channel.size for channel in channels]
        offset = -contrast * (1 + brightness) * float(_GREY @ means)
        matrix = (1 + contrast) * (1 + brightness) * np.eye(3)
        matrix = ((1 + saturation) * np.eye(3) - saturation * np.tile(_GREY, (3, 1))) @ matrix
        return _linear(channels, hue_rotation(turn) @ matrix, offset)


def hue_rotation(turn: float) -> Float64[np.ndarray, "3 3"]:
    """Turns the hue by a share of the circle; leaves greys and luma as they are.

    Source: the chroma plane of YIQ (NTSC), rotated.
    """
    angle = 2 * pi * turn
    rotation = np.array([[1, 0, 0], [0, cos(angle), -sin(angle)], [0, sin(angle), cos(angle)]])
    return _FROM_YIQ @ rotation @ _YIQ


def _linear(
    channels: list[Float32[np.ndarray, "height width"]], matrix: Float64[np.ndarray, "3 3"], offset: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Matrix @ colour + offset, rounded and clipped; in plain sums, the same on every machine."""
    changed = np.empty((*channels[0].shape, 3), np.uint8)
    for place, row in enumerate(matrix.astype(np.float32)):
        total = channels[0] * row[0]
        total += channels[1] * row[1]
        total += channels[2] * row[2]
        total += np.float32(offset)
        np.rint(total, out=total)
        changed[..., place] = np.clip(total, 0, 255, out=total)
    return changed


def _cropped(
    picture: Shaped[np.ndarray, "size size *channel"], left: float, top: float, side: float
) -> Shaped[np.ndarray, "size size *channel"]:
    """A square of a picture, brought back to the picture's size."""
    size = len(picture)
    if picture.ndim == 3:
        box = (left, top, left + side, top + side)
        image = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)
    steps = (np.arange(size) + 0.5) * (side / size)
    down, across = (np.minimum(size - 1, (start + steps).astype(np.int64)) for start in (top, left))
    return picture.take(down, axis=0).take(across, axis=1)
