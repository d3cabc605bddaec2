"""What encoders see of a sample in place of the sample itself, a function of (seed, epoch, sample).

Each modality is damaged independently of the others, so that one may tell what another has lost. Nothing
depends on which process does it, or on what it did before; it takes place after augmentation.

Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders" (ICML):
    masking; Vincent et al. 2010 (JMLR 11), section 3.3: Gaussian and salt-and-pepper noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from pipeline.data.hashing import bits, key_of, keys_of, uniform
from pipeline.data.loader.arrays import Arrays
from pipeline.data.modality import IGNORE_INDEX

BLOCK = 8
"""Height and width of what masking hides at once, in pixels."""

GREY = 128
"""What hidden RGB looks like."""

_STREAM = 12
"""Keeps these draws apart from others keyed by (seed, epoch, sample)."""

_POINTS = 1 << 16
_NOISE, _PEPPER, _MASK, _DROP = range(4)
_NUMBER = {"rgb": 0, "depth": 1, "seg": 2}


@dataclass(frozen=True)
class CorruptionProcess:
    """How strong each damage is; see `objective.corruption`.

    Attributes:
        seed: The run's seed.
        classes: From which labels are drawn at random.
    """

    seed: int
    classes: int
    gaussian: float = 0.0
    masking: float = 0.0
    salt_and_pepper: float = 0.0
    drop: Mapping[str, float] = field(default_factory=dict)

    def apply(
        self, arrays: Arrays, epoch: Int64[np.ndarray, " row"], sample: Int64[np.ndarray, " row"]
    ) -> None:
        """Fill `arrays.seen` with what is left of the samples of a batch, which stay as they are.

        Args:
            arrays: Rows that lack a modality lack it in what is seen too.
            epoch: In which each row is read.
            sample: Number of each row's sample.
        """
        seen = arrays.seen
        assert seen is not None
        for row, key in enumerate(keys_of(self.seed, epoch, sample, _STREAM).tolist()):
            present = [modality for modality in arrays.value if arrays.present[modality][row]]
            dropped = self.dropped(present, key)
            for modality, values in arrays.value.items():
                if modality in present and modality not in dropped:
                    seen.present[modality][row] = True
                    seen.value[modality][row] = self._damaged(modality, values[row], key)
                else:
                    seen.lacks(modality, row)

    def dropped(self, present: list[str], key: int) -> list[str]:
        """Which of the modalities of a row are hidden as a whole: never all of them."""
        draws = dict(zip(present, uniform(key_of(key, _DROP), len(_NUMBER)).tolist(), strict=False))
        hidden = [modality for modality in present if draws[modality] < self.drop.get(modality, 0.0)]
        if hidden and len(hidden) == len(present):
            hidden.remove(max(hidden, key=draws.__getitem__))
        return hidden

    def _damaged(
        self, modality: str, picture: Shaped[np.ndarray, "size size *channel"], key: int
    ) -> Shaped[np.ndarray, "size size *channel"]:
        own = [key_of(key, kind, _NUMBER[modality]) for kind in (_NOISE, _PEPPER, _MASK)]
        damaged = picture.copy()
        if self.gaussian and modality != "seg":
            damaged = _with_noise(modality, damaged, self.gaussian, own[_NOISE])
        if self.salt_and_pepper:
            self._sprinkle(modality, damaged, own[_PEPPER])
        if self.masking:
            damaged[_blocks(len(damaged), self.masking, own[_MASK])] = _HIDDEN[modality]
        return damaged

    def _sprinkle(self, modality: str, picture: Shaped[np.ndarray, "size size *channel"], key: int) -> None:
        """Replace single pixels in place: black or white, no depth, any label (where there was one)."""
        draws = uniform(key, picture.shape[0] * picture.shape[1]).reshape(picture.shape[:2])
        hit = draws < self.salt_and_pepper
        if modality == "seg":
            hit &= picture != IGNORE_INDEX
        share = draws[hit] / self.salt_and_pepper  # uniform again, given that it was hit
        match modality:
            case "rgb":
                picture[hit] = np.where(share < 0.5, 0, 255).astype(np.uint8)[:, None]
            case "depth":
                picture[hit] = np.nan
            case _:
                picture[hit] = (share * self.classes).astype(np.uint8)


_HIDDEN: dict[str, float] = {"rgb": GREY, "depth": np.nan, "seg": IGNORE_INDEX}


def _with_noise(
    modality: str, picture: Shaped[np.ndarray, "size size *channel"], sigma: float, key: int
) -> Shaped[np.ndarray, "size size *channel"]:
    """RGB + sigma n, as a sensor would round and clip it; depth * exp(sigma n), which stays positive."""
    points = bits(key, -(-picture.size // 4)).view(np.uint16)[: picture.size].reshape(picture.shape)
    if modality == "depth":
        return picture * _factors(sigma)[points]
    noisy = picture + np.float32(255 * sigma) * normal_points()[points]
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _blocks(size: int, share: float, key: int) -> Bool[np.ndarray, "size size"]:
    """Which pixels lie in hidden blocks."""
    count = -(-size // BLOCK)
    hidden = (uniform(key, count * count) < share).reshape(count, count)
    return hidden.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:size, :size]


@lru_cache(maxsize=1)
def normal_points() -> Float32[np.ndarray, " point"]:
    """Quantiles of N(0, 1) at 65,536 equally likely points, which stand for it: 16 random bits choose one.

    Unlike what generators make, the same with every version of every library. Their variance is 0.99998.
    """
    quantile = NormalDist().inv_cdf
    return np.array([quantile((point + 0.5) / _POINTS) for point in range(_POINTS)], np.float32)


@lru_cache(maxsize=4)
def _factors(sigma: float) -> Float32[np.ndarray, " point"]:
    return np.exp(sigma * normal_points().astype(np.float64)).astype(np.float32)
