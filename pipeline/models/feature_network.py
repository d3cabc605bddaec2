"""A small network that describes scenes by a few numbers; what generated sets are compared in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (32, 64, 96)
FEATURES = 64
INNERMOST = 4
PROJECTED = 32


class FeatureNetwork(nn.Module):
    """Three strided convolutions, pooled to 4 x 4, and one linear layer: 64 features of a scene.

    Its shape is fixed, and apart from those of the models it judges, so that a change of theirs leaves
    the yardstick as it is. Group norm keeps rows apart.

    Attributes:
        centre: Mean of each feature over training scenes.
        spread: Standard deviation of each feature over training scenes; features come out divided by it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stages = nn.Sequential(
            nn.Conv2d(channels, first, 4, 4),
            nn.GroupNorm(8, first),
            nn.SiLU(),
            nn.Conv2d(first, second, 3, 2, 1),
            nn.GroupNorm(8, second),
            nn.SiLU(),
            nn.Conv2d(second, third, 3, 2, 1),
            nn.GroupNorm(8, third),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(INNERMOST),
            nn.Flatten(),
        )
        self.head = nn.Linear(third * INNERMOST**2, FEATURES)
        self.projection = nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, PROJECTED))
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("spread", torch.ones(FEATURES))
        self.centre: Tensor
        self.spread: Tensor

    def forward(self, maps: Float[Tensor, "scene channel height width"]) -> Float[Tensor, "scene feature"]:
        """Features with mean 0 and variance 1 over training scenes."""
        return (self.raw(maps) - self.centre) / self.spread

    def raw(self, maps: Float[Tensor, "scene channel height width"]) -> Float[Tensor, "scene feature"]:
        """Features as the layers give them."""
        features: Tensor = self.head(self.stages(maps))
        return features

    def projected(self, maps: Float[Tensor, "scene channel height width"]) -> Float[Tensor, "scene _"]:
        """Unit vectors that training compares."""
        vectors: Tensor = nn.functional.normalize(self.projection(self.raw(maps)), dim=1)
        return vectors
