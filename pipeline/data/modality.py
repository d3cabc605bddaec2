"""What a sample is: aligned RGB, depth and segmentation of one view, any of them absent."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

MODALITIES = ("rgb", "depth", "seg")
"""In the order they are named everywhere."""

IGNORE_INDEX = 255
"""The label of a pixel without one."""

SPLITS = ("train", "val", "test", "heldout")
"""`heldout` holds what few-shot adaptation learns from and is measured on."""

SplitName = str


@dataclass(frozen=True)
class Sample:
    """One view; a modality that is absent is None.

    Attributes:
        key: Unique name, `[A-Za-z0-9_-]+`.
        rgb: Values 0..255.
        depth: Planar z in metres, NaN where invalid.
        seg: Class indices, 255 where there is no label.
        factors: Index of each factor's value, for scenes whose factors are known.
        origin: What the source calls it (a path, an index), for people.
    """

    key: str
    rgb: UInt8[np.ndarray, "height width 3"] | None = None
    depth: Float32[np.ndarray, "height width"] | None = None
    seg: UInt8[np.ndarray, "height width"] | None = None
    factors: dict[str, int] | None = None
    origin: str = ""


@dataclass(frozen=True)
class Factor:
    """A property that scenes are known by, and the names of its values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class DepthStatistics:
    """Of all valid pixels of the training split, in metres (and log metres)."""

    mean_m: float
    std_m: float
    min_m: float
    max_m: float
    log_mean: float
    log_std: float


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says.

    Attributes:
        modalities: Those that at least one sample has.
        class_names: In the order of their label; empty without segmentation.
        image_size: Height and width in pixels.
        counts: Samples per split.
        factors: Known factors in the order of `Batch.factors`; empty for real data.
        depth: Statistics that standardise depth; None without depth.
        depth_scale_m: Metres per unit of a `depth.png`.
        source: How the data came about, for people.
        quarantine: Refused samples per reason.
    """

    modalities: tuple[str, ...]
    class_names: tuple[str, ...]
    image_size: int
    counts: dict[str, int]
    factors: tuple[Factor, ...] = ()
    depth: DepthStatistics | None = None
    depth_scale_m: float = 0.0001
    source: dict[str, Any] = field(default_factory=dict)
    quarantine: dict[str, int] = field(default_factory=dict)
