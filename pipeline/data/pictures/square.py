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

    def rgb(self, picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """The mean over each pixel's area; interpolated where the square is smaller than `size`."""
        top, left = self._corner()
        square = np.ascontiguousarray(picture[top : top + self.side, left : left + self.side])
        resample = Image.Resampling.BOX if self.side >= self.size else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(square).resize((self.size, self.size), resample))

    def seg(self, labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "size size"]:
        """The label in the middle of each pixel's area."""
        rows, columns = self._middles()
        return labels[np.ix_(rows, columns)]

    def majority(self, labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "size size"]:
        """The most frequent label of each pixel's area, the smallest of several; no label counts as one.

        A stored pixel belongs to the area its middle lies in.
        """
        if self.side <= self.size:
            return self.seg(labels)
        top, left = self._corner()
        square = labels[top : top + self.side, left : left + self.side]
        present = np.unique(square)
        place = (np.arange(self.side) * 2 + 1) * self.size // (2 * self.side)
        area = place[:, None] * self.size + place[None, :]
        votes = np.bincount(
            (area * len(present) + np.searchsorted(present, square)).ravel(),
            minlength=self.size**2 * len(present),
        )
        return present[votes.reshape(self.size, self.size, len(present)).argmax(axis=2)]

    def depth(self, depth: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "size size"]:
        """The valid depth nearest to the middle of each pixel's area; NaN if the area has none."""
        rows, columns = self._middles()
        top, left = self._corner()
        sampled = depth[np.ix_(rows, columns)]
        holes = np.nonzero(np.isnan(sampled))
        for down, right in _nearest_first(max(self.side // self.size - 1, 0) // 2):
            if not len(holes[0]):
                break
            here = depth[
                np.clip(rows[holes[0]] + down, top, top + self.side - 1),
                np.clip(columns[holes[1]] + right, left, left + self.side - 1),
            ]
            sampled[holes] = here
            left_over = np.isnan(here)
            holes = (holes[0][left_over], holes[1][left_over])
        return sampled

    def _corner(self) -> tuple[int, int]:
        return (self.height - self.side) // 2, (self.width - self.side) // 2

    def _middles(self) -> tuple[Int[np.ndarray, " size"], Int[np.ndarray, " size"]]:
        top, left = self._corner()
        middle = (2 * np.arange(self.size) + 1) * self.side // (2 * self.size)
        return middle + top, middle + left


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
