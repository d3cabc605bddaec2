"""The largest centred square of a picture at the dataset's size.

RGB is averaged over the area a pixel covers. Depth and labels are never averaged, since a mean of
two surfaces is on neither: labels take the value in the middle of the area, depth the valid value
nearest to the middle.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image


@dataclass(frozen=True)
class Square:
    """The largest centred square of a picture, sampled at `size` x `size`."""

    height: int
    width: int
    size: int

    @property
    def side(self) -> int:
        """Pixels along a side of the square."""
        return min(self.height, self.width)

    @property
    def corner(self) -> tuple[int, int]:
        """Top and left of the square."""
        return (self.height - self.side) // 2, (self.width - self.side) // 2

    def rgb(
        self, picture: UInt8[np.ndarray, "height width 3"] | Image.Image
    ) -> UInt8[np.ndarray, "size size 3"]:
        """The mean over each pixel's area; interpolated where the square is smaller than `size`."""
        if isinstance(picture, np.ndarray):
            inside = Image.fromarray(np.ascontiguousarray(self._inside(picture)))
        else:
            top, left = self.corner
            inside = picture.crop((left, top, left + self.side, top + self.side))
        if self.side != self.size:
            resample = Image.Resampling.BOX if self.side > self.size else Image.Resampling.BICUBIC
            inside = inside.resize((self.size, self.size), resample)
        return np.asarray(inside)

    def seg(self, labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "size size"]:
        """The label in the middle of each pixel's area."""
        middle = _middles(self.side, self.size)
        return self._inside(labels)[middle[:, None], middle]

    def majority(self, labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "size size"]:
        """The most frequent label of each pixel's area, the smallest of several; no label counts as one.

        A stored pixel belongs to the area its middle lies in.
        """
        if self.side <= self.size:
            return self.seg(labels)
        inside = self._inside(labels)
        present = np.flatnonzero(np.bincount(inside.ravel(), minlength=256)).astype(np.uint8)
        number_of = np.zeros(256, np.intp)
        number_of[present] = np.arange(len(present))
        votes = np.bincount(
            (_areas(self.side, self.size) * len(present) + number_of.take(inside)).ravel(),
            minlength=self.size**2 * len(present),
        )
        return present[votes.reshape(self.size, self.size, len(present)).argmax(axis=2)]

    def depth(
        self,
        depth: Shaped[np.ndarray, "height width"],
        metres: Float32[np.ndarray, " value"] | None = None,
    ) -> Float32[np.ndarray, "size size"]:
        """The valid depth nearest to the middle of each pixel's area; NaN if the area has none.

        Args:
            depth: In metres, NaN where invalid; or as stored.
            metres: Of every stored value.
        """
        middle = _middles(self.side, self.size)
        inside = self._inside(depth)
        sampled = inside[middle[:, None], middle]
        sampled = sampled if metres is None else metres.take(sampled)
        down, right = np.nonzero(np.isnan(sampled))
        for step_down, step_right in _nearest_first(max(self.side // self.size - 1, 0) // 2):
            if not len(down):
                break
            found = inside[
                np.clip(middle[down] + step_down, 0, self.side - 1),
                np.clip(middle[right] + step_right, 0, self.side - 1),
            ]
            found = found if metres is None else metres.take(found)
            sampled[down, right] = found
            holes = np.isnan(found)
            down, right = down[holes], right[holes]
        return sampled

    def _inside(
        self, picture: Shaped[np.ndarray, "height width *channel"]
    ) -> Shaped[np.ndarray, "side side *channel"]:
        top, left = self.corner
        return picture[top : top + self.side, left : left + self.side]


@lru_cache(maxsize=16)
def _middles(side: int, size: int) -> Int[np.ndarray, " size"]:
    """Where the middles of the areas are along a side."""
    return (2 * np.arange(size) + 1) * side // (2 * size)


@lru_cache(maxsize=2)
def _areas(side: int, size: int) -> Int[np.ndarray, "side side"]:
    """Which area each pixel of the square is in."""
    place = (np.arange(side) * 2 + 1) * size // (2 * side)
    return place[:, None] * size + place[None, :]


@lru_cache(maxsize=16)
def _nearest_first(reach: int) -> list[tuple[int, int]]:
    """Steps down and right, the shortest first, without standing still."""
    steps = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    return sorted(steps, key=lambda step: (step[0] ** 2 + step[1] ** 2, step))[1:]


def turned(
    array: Shaped[np.ndarray, "height width *channel"], orientation: int
) -> Shaped[np.ndarray, "turned_height turned_width *channel"]:
    """A stored picture as EXIF wants it seen.

    Args:
        array: As stored.
        orientation: 1 to 8; 1 leaves it as it is.

    Source: EXIF 2.32, tag 0x0112.
    """
    match orientation:
        case 2:
            return array[:, ::-1]
        case 3:
            return array[::-1, ::-1]
        case 4:
            return array[::-1]
        case 5:
            return array.swapaxes(0, 1)
        case 6:
            return array[::-1].swapaxes(0, 1)
        case 7:
            return array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return array[:, ::-1].swapaxes(0, 1)
        case _:
            return array
