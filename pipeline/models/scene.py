"""From locations of likelihoods to pictures, metres and labels: what a person or a file wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from pipeline.data.modality import DepthStatistics, Sample
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Decoded


@dataclass(frozen=True)
class Scenes:
    """Decoded scenes; a modality that the model lacks is None.

    Attributes:
        rgb: Values 0..255.
        depth: Planar z in metres, everywhere valid.
        seg: The most probable class of every pixel.
    """

    rgb: UInt8[np.ndarray, "batch height width 3"] | None
    depth: Float32[np.ndarray, "batch height width"] | None
    seg: UInt8[np.ndarray, "batch height width"] | None

    def __len__(self) -> int:
        return next(len(part) for part in (self.rgb, self.depth, self.seg) if part is not None)

    def sample(self, row: int, key: str) -> Sample:
        """One scene as a sample of a dataset."""
        rgb, depth, seg = (None if part is None else part[row] for part in (self.rgb, self.depth, self.seg))
        return Sample(key, rgb, depth, seg)


def scenes(model: SharedLatentAutoencoder, decoded: Decoded, depth: DepthStatistics | None) -> Scenes:
    """Round, scale and choose: RGB clamped to 0..255, depth to the training range, labels by argmax.

    Args:
        model: It knows the scale of depth.
        decoded: Its output.
        depth: Of the training split; None leaves depth unclamped.
    """
    rgb = metres = seg = None
    if decoded.rgb is not None:
        rgb = (
            (decoded.rgb.clamp(0.0, 1.0) * 255.0)
            .round()
            .to(torch.uint8)
            .permute(0, 2, 3, 1)
            .numpy(force=True)
        )
    if decoded.depth is not None:
        raw = model.units.to_metres(decoded.depth)[:, 0].float()
        metres = (raw.clamp(depth.min_m, depth.max_m) if depth else raw).numpy(force=True)
    if decoded.seg is not None:
        seg = decoded.seg.argmax(dim=1).to(torch.uint8).numpy(force=True)
    return Scenes(None if rgb is None else np.ascontiguousarray(rgb), metres, seg)


@torch.no_grad()
def decode_in_parts(
    model: SharedLatentAutoencoder,
    shared: Float[Tensor, "batch latent"],
    private: Mapping[str, Float[Tensor, "batch _"]],
    part: int = 64,
) -> Decoded:
    """`model.decode` without gradients, some rows at a time, which bounds memory."""
    parts = [
        model.decode(shared[start : start + part], {n: w[start : start + part] for n, w in private.items()})
        for start in range(0, len(shared), part)
    ]

    def joined(name: str) -> Tensor | None:
        return None if getattr(parts[0], name) is None else torch.cat([getattr(p, name) for p in parts])

    return Decoded(joined("rgb"), joined("depth"), joined("seg"))
