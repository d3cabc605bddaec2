"""What a structured-light camera makes of an ideal picture.

Depth: Gaussian noise that grows with distance, and no value at some pixels beside a jump in depth.
RGB: read noise. Source of the depth noise: Khoshelham & Elberink 2012, "Accuracy and resolution of
Kinect depth data", and Nguyen, Izadi & Lovell 2012 (axial noise 0.0012 + 0.0019 (z - 0.4)^2 metres).
"""

import numpy as np
from jaxtyping import Bool, Float32

from pipeline.data.hashing import bits
from pipeline.data.scenes.render import Picture

_JUMP_M = 0.15
_DROPOUT = 0.7
_READ_NOISE = 0.012
_WORD = 2.0**-16


def sense(picture: Picture, key: int) -> Picture:
    """Add noise that is a function of the key; pixels without depth are NaN."""
    shape = picture.depth_m.shape
    words = bits(key, picture.depth_m.size)[:, None] >> np.array([0, 16, 32, 48], np.uint64)
    first, second, third, fourth = (
        ((words & np.uint64(0xFFFF)).astype(np.float32) + 0.5) * np.float32(_WORD)
    ).T
    axial = 0.0012 + 0.0019 * np.square(picture.depth_m - np.float32(0.4))
    depth = picture.depth_m + axial * _nearly_normal(first, second).reshape(shape)
    lost = _beside_jumps(picture.depth_m) & (third.reshape(shape) < _DROPOUT)
    grey = np.float32(_READ_NOISE) * _nearly_normal(third, fourth).reshape(*shape, 1)
    return Picture(
        np.clip(picture.rgb + grey, 0, 1).astype(np.float32),
        np.where(lost, np.float32(np.nan), depth).astype(np.float32),
        picture.seg,
    )


def _nearly_normal(
    first: Float32[np.ndarray, " pixel"], second: Float32[np.ndarray, " pixel"]
) -> Float32[np.ndarray, " pixel"]:
    """A triangular distribution of mean 0 and variance 1, from two uniform ones."""
    return (first + second - 1) * np.float32(6**0.5)


def _beside_jumps(depth: Float32[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels whose depth differs from that of the pixel to the left or above."""
    jump = np.zeros(depth.shape, bool)
    jump[:, 1:] |= np.abs(np.diff(depth, axis=1)) > _JUMP_M
    jump[1:] |= np.abs(np.diff(depth, axis=0)) > _JUMP_M
    return jump
