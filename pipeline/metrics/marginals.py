"""Whether scenes as a whole look like others: how often each class occurs, and how far things are."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64, Integer

from pipeline.data.modality import IGNORE_INDEX


class Marginals:
    """Counts over the pixels of many scenes, added up part by part.

    Attributes:
        labels: Pixels per class, ignored ones left out.
    """

    def __init__(self, classes: int) -> None:
        self.labels: Float64[np.ndarray, " class"] = np.zeros(classes)
        self._depth = np.zeros(3)

    def add(
        self,
        depth_m: Float32[np.ndarray, "batch height width"] | None,
        labels: Integer[np.ndarray, "batch height width"] | None,
    ) -> None:
        """Add scenes; depth that is not finite and labels of 255 do not count."""
        if depth_m is not None:
            known = depth_m[np.isfinite(depth_m)].astype(np.float64)
            self._depth += len(known), known.sum(), np.square(known).sum()
        if labels is not None:
            known_labels = labels[labels != IGNORE_INDEX]
            self.labels += np.bincount(known_labels, minlength=len(self.labels))

    def sums(self) -> dict[str, np.ndarray]:
        """What was added up so far, for `add_sums` elsewhere."""
        return {"labels": self.labels, "depth": self._depth}

    def add_sums(self, sums: Mapping[str, np.ndarray]) -> None:
        """Add what another has added up."""
        self.labels += sums["labels"]
        self._depth += sums["depth"]

    @property
    def depth_mean_m(self) -> float:
        """Mean of valid depth; NaN if there is none."""
        return float(self._depth[1] / self._depth[0]) if self._depth[0] else math.nan

    @property
    def depth_std_m(self) -> float:
        """Standard deviation of valid depth; NaN if there is none."""
        if not self._depth[0]:
            return math.nan
        return math.sqrt(max(0.0, self._depth[2] / self._depth[0] - self.depth_mean_m**2))


def marginal_differences(ours: Marginals, reference: Marginals) -> dict[str, float]:
    """How marginals differ from a reference; what either lacks is left out.

    `class_frequency_tv` is the total variation between the shares of pixels per class, 0 to 1:
    half the sum of absolute differences. The depth differences are ours minus the reference.
    """
    values = {
        "depth_mean_difference_m": ours.depth_mean_m - reference.depth_mean_m,
        "depth_std_difference_m": ours.depth_std_m - reference.depth_std_m,
    }
    if ours.labels.sum() and reference.labels.sum():
        shares = ours.labels / ours.labels.sum() - reference.labels / reference.labels.sum()
        values["class_frequency_tv"] = float(0.5 * np.abs(shares).sum())
    return {name: value for name, value in values.items() if math.isfinite(value)}
