"""Depth over many pictures, summed one picture at a time and always in the same order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pipeline.data.modality import DepthStatistics


@dataclass(frozen=True)
class DepthSums:
    """Sums over valid pixels, metres and log metres."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    log_total: float = 0.0
    log_squares: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    def __add__(self, other: DepthSums) -> DepthSums:
        return DepthSums(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.log_total + other.log_total,
            self.log_squares + other.log_squares,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
        )

    def statistics(self) -> DepthStatistics | None:
        """Mean, deviation and range; None without a valid pixel."""
        if not self.count:
            return None
        mean, log_mean = self.total / self.count, self.log_total / self.count
        return DepthStatistics(
            mean_m=mean,
            std_m=math.sqrt(max(self.squares / self.count - mean**2, 0.0)),
            min_m=self.smallest,
            max_m=self.largest,
            log_mean=log_mean,
            log_std=math.sqrt(max(self.log_squares / self.count - log_mean**2, 0.0)),
        )


def depth_sums(depth: Float32[np.ndarray, "height width"]) -> DepthSums:
    """Sums over the pixels of one picture that are not NaN."""
    valid = depth[np.isfinite(depth)].astype(np.float64)
    if not len(valid):
        return DepthSums()
    log = np.log(valid)
    return DepthSums(
        len(valid),
        float(valid.sum()),
        float(np.square(valid).sum()),
        float(log.sum()),
        float(np.square(log).sum()),
        float(valid.min()),
        float(valid.max()),
    )
