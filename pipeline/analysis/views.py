"""Scenes as a person sees them, real or decoded: colours, metres and class labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.data.modality import IGNORE_INDEX, Sample


@dataclass(frozen=True)
class Views:
    """The same scenes in each modality; None where there is no such modality.

    Attributes:
        rgb: Values 0..1; NaN where a scene lacks the modality.
        depth_m: Planar z in metres, NaN where unknown.
        labels: Class indices, 255 where unknown.
    """

    rgb: Float32[np.ndarray, "scene 3 height width"] | None = None
    depth_m: Float32[np.ndarray, "scene height width"] | None = None
    labels: UInt8[np.ndarray, "scene height width"] | None = None

    def __len__(self) -> int:
        return next(len(part) for part in (self.rgb, self.depth_m, self.labels) if part is not None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        image = next(part for part in (self.rgb, self.depth_m, self.labels) if part is not None)
        return image.shape[-2], image.shape[-1]

    def __getitem__(self, rows: slice) -> "Views":
        parts = (None if part is None else part[rows] for part in (self.rgb, self.depth_m, self.labels))
        return Views(*parts)


def joined(parts: list[Views]) -> Views:
    """One after another; all have the same modalities."""
    return Views(
        _concatenated([part.rgb for part in parts]),
        _concatenated([part.depth_m for part in parts]),
        _concatenated([part.labels for part in parts]),
    )


def sample_views(samples: Sequence[Sample], size: int) -> Views:
    """Real scenes as they are stored, each modality of them; what a sample lacks is unknown.

    Args:
        samples: At least one.
        size: Height and width of every sample.
    """
    count = len(samples)
    rgb = np.full((count, 3, size, size), np.nan, np.float32)
    depth_m = np.full((count, size, size), np.nan, np.float32)
    labels = np.full((count, size, size), IGNORE_INDEX, np.uint8)
    for row, sample in enumerate(samples):
        if sample.rgb is not None:
            rgb[row] = sample.rgb.transpose(2, 0, 1).astype(np.float32) / np.float32(255.0)
        if sample.depth is not None:
            depth_m[row] = sample.depth
        if sample.seg is not None:
            labels[row] = sample.seg
    return Views(rgb, depth_m, labels)


def _concatenated(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
