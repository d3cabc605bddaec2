"""A joint encoder: the features of whatever modalities a row has, pooled, then one posterior."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.models.fusion import at_least_float32

HEADS = 4
"""Most parts of the features that attend to modalities independently of each other."""


class JointEncoder(nn.Module):
    """Pool the features of the modalities that are present and mix them.

    `mean` averages them. `attention` weights them, in each of several parts of the features, by a
    softmax over the modalities present of scores that each modality's own features give. What was seen
    is appended, so that one feature alone is told from an average of several. An absent modality changes
    nothing.

    Source: Zaheer et al. 2017 (arXiv:1703.06114), pooling over sets; Ilse, Tomczak & Welling 2018
        (arXiv:1802.04712), attention as pooling.
    """

    def __init__(self, modalities: int, features: int, pool: Literal["mean", "attention"]) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, features)
        self.score = nn.Linear(features, self.heads) if pool == "attention" else None
        self.mix = nn.Sequential(
            nn.Linear(features + modalities, 2 * features), nn.SiLU(), nn.Linear(2 * features, features)
        )

    def forward(
        self,
        feature: Float[Tensor, "modality batch feature"],
        present: Bool[Tensor, "modality batch"],
    ) -> Float[Tensor, "batch feature"]:
        """Features of each row as a whole; a row of which nothing is present gets some constant.

        Args:
            feature: Of each modality; anything, NaN included, where it is not present.
            present: What may be seen.
        """
        seen = torch.where(present[..., None], feature, 0.0)
        pooled = self._pool(seen, present)
        mixed: Tensor = self.mix(torch.cat([pooled, present.T.to(pooled.dtype)], dim=1))
        return pooled + mixed

    def _pool(
        self, seen: Float[Tensor, "modality batch feature"], present: Bool[Tensor, "modality batch"]
    ) -> Float[Tensor, "batch feature"]:
        if self.score is None:
            return seen.sum(dim=0) / present.sum(dim=0).clamp(min=1)[:, None]
        score = at_least_float32(self.score(seen))
        weight = torch.where(present[..., None], score, torch.finfo(score.dtype).min).softmax(dim=0)
        parts = rearrange(seen, "m b (h f) -> m b h f", h=self.heads)
        pooled: Tensor = (weight[..., None] * parts).sum(dim=0).flatten(1)
        return pooled
