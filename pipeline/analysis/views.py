"""Scenes as a person sees them, real or decoded: colours, metres and class labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8


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

    def arrays(self) -> dict[str, np.ndarray]:
        """What there is, by the names that `Views` takes."""
        parts = {"rgb": self.rgb, "depth_m": self.depth_m, "labels": self.labels}
        return {name: array for name, array in parts.items() if array is not None}


def joined(parts: list[Views]) -> Views:
    """One after another; all have the same modalities."""
    return Views(
        _concatenated([part.rgb for part in parts]),
        _concatenated([part.depth_m for part in parts]),
        _concatenated([part.labels for part in parts]),
    )


def _concatenated(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
