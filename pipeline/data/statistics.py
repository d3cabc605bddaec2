"""Depth over many pictures, summed one picture at a time and always in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32, Num

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


DEPTH_SUMS = tuple(field.name for field in fields(DepthSums))
"""What is summed, by name."""


def total_of(columns: Mapping[str, Num[np.ndarray, " picture"]]) -> DepthSums:
    """Over several pictures, given each field of `DepthSums` as a column of one number per picture."""
    if not len(columns["count"]):
        return DepthSums()
    added = {name: float(columns[name].sum()) for name in DEPTH_SUMS[1:5]}
    return DepthSums(
        count=int(columns["count"].sum()),
        smallest=float(columns["smallest"].min()),
        largest=float(columns["largest"].max()),
        **added,
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


def typical_depth_m(depth: Float32[np.ndarray, "height width"]) -> float:
    """The (lower) median over valid pixels; NaN without one."""
    valid = depth[np.isfinite(depth)]
    middle = (len(valid) - 1) // 2
    return float(np.partition(valid, middle)[middle]) if len(valid) else math.nan
