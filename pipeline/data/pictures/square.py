"""The largest centred square of a picture at the dataset's size.

RGB is averaged over the area a pixel covers. Depth and labels are never averaged, since a mean of
two surfaces is on neither: labels take the value in the middle of the area, depth the valid value
nearest to the middle.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, UInt8
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

    def depth(self, depth: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "size size"]:
        """The valid depth nearest to the middle of each pixel's area; NaN if the area has none."""
        rows, columns = self._middles()
        top, left = self._corner()
        reach = max(self.side // self.size - 1, 0) // 2
        steps = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
        sampled = np.full((self.size, self.size), np.nan, np.float32)
        for down, right in sorted(steps, key=lambda step: (step[0] ** 2 + step[1] ** 2, step)):
            here = depth[
                np.ix_(
                    np.clip(rows + down, top, top + self.side - 1),
                    np.clip(columns + right, left, left + self.side - 1),
                )
            ]
            sampled = np.where(np.isnan(sampled), here, sampled)
        return sampled

    def _corner(self) -> tuple[int, int]:
        return (self.height - self.side) // 2, (self.width - self.side) // 2

    def _middles(self) -> tuple[Int[np.ndarray, " size"], Int[np.ndarray, " size"]]:
        top, left = self._corner()
        middle = (2 * np.arange(self.size) + 1) * self.side // (2 * self.size)
        return middle + top, middle + left
