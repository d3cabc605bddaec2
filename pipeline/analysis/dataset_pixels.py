"""Classes and depths of the samples that were looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64

from pipeline.analysis.dataset_samples import Damage
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo, Sample

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

MOST_BINS = 14

_DECADES = range(-3, 5)
_LOGARITHMIC = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Edges within a decade, from dense to coarse."""

_WIDE = 4.0
"""Farthest over nearest depth from which on bins are spaced like logarithms."""


@dataclass(frozen=True)
class ClassCount:
    """One class in the samples of one split that were looked at.

    Attributes:
        pixels: With this label.
        samples: With at least one such pixel.
    """

    pixels: int
    samples: int


@dataclass(frozen=True)
class DepthCounts:
    """Depth in the samples that were looked at.

    Attributes:
        pixels: Of samples that have depth.
        valid: Of these, those with a value.
        edges_m: Of the histogram; the first and the last bin hold what is beyond as well.
        counts: Valid pixels in each bin.
        quantiles_m: Depth below which the share of `QUANTILES` lies, to about a thousandth.
        nearest_m: The smallest.
        farthest_m: The largest.
        holes: Samples by valid share: none, below half, below nine tenths, below all, all.
    """

    pixels: int
    valid: int
    edges_m: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles_m: dict[float, float]
    nearest_m: float
    farthest_m: float
    holes: tuple[int, int, int, int, int]

    @property
    def span_m(self) -> tuple[float, float]:
        """Where nearly all depth is: the scale of the dataset's pictures."""
        low_m, high_m = self.quantiles_m[QUANTILES[0]], self.quantiles_m[QUANTILES[-1]]
        return low_m, high_m if high_m > low_m else low_m + 1.0


@dataclass(frozen=True)
class Pixels:
    """What the pixels say.

    Attributes:
        samples: How many samples of each split were looked at.
        labelled: Samples with segmentation among them, per split.
        classes: Per split a count per class, in the order of the labels.
        unlabelled: Pixels without a label, of samples with segmentation.
        depth: None when no valid depth was seen.
        damage: Samples that could not be read.
    """

    samples: dict[str, int]
    labelled: dict[str, int]
    classes: dict[str, tuple[ClassCount, ...]]
    unlabelled: int
    depth: DepthCounts | None
    damage: tuple[Damage, ...]


def count_pixels(info: DatasetInfo, samples: Iterable[tuple[str, Sample] | Damage]) -> Pixels:
    """Look at every sample once."""
    seen = dict.fromkeys(info.counts, 0)
    labels = {split: _Labels() for split in info.counts}
    depth = _Depth()
    damage = []
    for item in samples:
        if isinstance(item, Damage):
            damage.append(item)
            continue
        split, sample = item
        seen[split] += 1
        if sample.seg is not None:
            labels[split].add(sample)
        if sample.depth is not None:
            depth.add(sample)
    classes = len(info.class_names)
    return Pixels(
        samples=seen,
        labelled={split: counts.samples for split, counts in labels.items()},
        classes={split: counts.classes(classes) for split, counts in labels.items()},
        unlabelled=sum(int(counts.pixels[IGNORE_INDEX]) for counts in labels.values()),
        depth=depth.counts(),
        damage=tuple(damage),
    )


class _Labels:
    """Adds up the labels of one split."""

    def __init__(self) -> None:
        self.samples = 0
        self.pixels = np.zeros(IGNORE_INDEX + 1, np.int64)
        self._with = np.zeros(IGNORE_INDEX + 1, np.int64)

    def add(self, sample: Sample) -> None:
        """Add one sample."""
        assert sample.seg is not None
        counts = np.bincount(sample.seg.ravel(), minlength=IGNORE_INDEX + 1)
        self.samples += 1
        self.pixels += counts
        self._with += counts > 0

    def classes(self, count: int) -> tuple[ClassCount, ...]:
        """One count per class."""
        return tuple(ClassCount(int(self.pixels[label]), int(self._with[label])) for label in range(count))


class _Depth:
    """Adds up depth in fine bins whose edges are round numbers."""

    def __init__(self) -> None:
        self._pixels = self._valid = 0
        self._fine = np.zeros(len(fine_edges_m()) - 1, np.int64)
        self._nearest_m, self._farthest_m = np.inf, -np.inf
        self._holes = [0, 0, 0, 0, 0]

    def add(self, sample: Sample) -> None:
        """Add one sample."""
        assert sample.depth is not None
        valid = np.sort(sample.depth[np.isfinite(sample.depth)]).astype(
            np.float64
        )  # sorted, it is found fast
        self._pixels += sample.depth.size
        self._valid += len(valid)
        self._holes[_hole_class(len(valid), sample.depth.size)] += 1
        if not len(valid):
            return
        edges = fine_edges_m()
        places = np.searchsorted(edges, valid * (1 + 1e-7), side="right") - 1  # 1.3 as float32 is less
        self._fine += np.bincount(np.clip(places, 0, len(self._fine) - 1), minlength=len(self._fine))
        self._nearest_m = min(self._nearest_m, float(valid[0]))
        self._farthest_m = max(self._farthest_m, float(valid[-1]))

    def counts(self) -> DepthCounts | None:
        """What came together; None without a valid pixel."""
        if not self._valid:
            return None
        edges = display_edges_m(self._quantile(0.001), self._quantile(0.999))
        fine = fine_edges_m()
        bins = np.clip(np.searchsorted(edges, fine[:-1] + 1e-9, side="right") - 1, 0, len(edges) - 2)
        counts = np.bincount(bins, self._fine, len(edges) - 1)
        first, middle, almost, most, whole = self._holes
        return DepthCounts(
            pixels=self._pixels,
            valid=self._valid,
            edges_m=tuple(float(edge) for edge in edges),
            counts=tuple(int(count) for count in counts),
            quantiles_m={share: self._quantile(share) for share in QUANTILES},
            nearest_m=self._nearest_m,
            farthest_m=self._farthest_m,
            holes=(first, middle, almost, most, whole),
        )

    def _quantile(self, share: float) -> float:
        """By straight lines within fine bins, and within what occurs."""
        below = np.concatenate([[0], np.cumsum(self._fine)]) / self._valid
        at = int(np.searchsorted(below, share, side="left"))
        at = min(max(at, 1), len(below) - 1)
        part = (share - below[at - 1]) / max(below[at] - below[at - 1], 1e-300)
        edges = fine_edges_m()
        depth_m = edges[at - 1] + part * (edges[at] - edges[at - 1])
        return float(np.clip(depth_m, self._nearest_m, self._farthest_m))


def _hole_class(valid: int, pixels: int) -> int:
    """0: nothing valid, 1: below half, 2: below nine tenths, 3: not all, 4: all."""
    if valid in (0, pixels):
        return 4 if valid else 0
    return 1 if 2 * valid < pixels else 2 if 10 * valid < 9 * pixels else 3


@cache
def fine_edges_m() -> Float64[np.ndarray, " edge"]:
    """From 1 mm to 100 km, a thousandth of the power of ten below apart: every round number is an edge."""
    decade = np.arange(1000, 10_000)
    edges = [decade * 10.0 ** (power - 3) for power in _DECADES]
    return np.round(np.concatenate([*edges, [10.0**_DECADES.stop]]), 8)


def display_edges_m(low_m: float, high_m: float) -> Float64[np.ndarray, " edge"]:
    """At most `MOST_BINS` bins with round edges around a range, equal ones if it is narrow."""
    fine = fine_edges_m()
    low_m, high_m = max(low_m, float(fine[0])), min(max(high_m, low_m * 1.0001), float(fine[-1]))
    candidates: list[Sequence[float]] = (
        [
            [*(round(factor * 10.0**power, 8) for power in _DECADES for factor in decade), float(fine[-1])]
            for decade in _LOGARITHMIC
        ]
        if high_m > _WIDE * low_m
        else [_equal(step * 10.0**power, low_m, high_m) for power in range(-4, 5) for step in (1, 2, 5)]
    )
    for edges in candidates:
        first = max((place for place, edge in enumerate(edges) if edge <= low_m + 1e-9), default=0)
        last = min(
            (place for place, edge in enumerate(edges) if edge >= high_m - 1e-9), default=len(edges) - 1
        )
        if 1 <= last - first <= MOST_BINS:
            return np.array(edges[first : last + 1])
    return np.array([low_m, high_m])


def _equal(step: float, low_m: float, high_m: float) -> list[float]:
    first, last = int(np.floor(low_m / step)), int(np.ceil(high_m / step))
    if last - first > 10 * MOST_BINS:
        return [low_m]
    return [round(place * step, 8) for place in range(first, last + 1)]
