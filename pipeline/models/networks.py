"""The two networks a modality has: image to features, latent to image."""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 4
"""Height and width of the innermost feature map."""


class Encoder(nn.Module):
    """Halve the image down to 4 x 4, doubling channels, then one linear layer."""

    def __init__(self, channels: int, image_size: int, out_features: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, width)
        layers: list[nn.Module] = []
        for before, after in pairwise([channels, *widths]):
            layers += [nn.Conv2d(before, after, 4, 2, 1), group_norm(after), nn.SiLU()]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * SMALLEST**2, out_features)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of an image."""
        feature: Tensor = self.head(self.stages(image).flatten(1))
        return feature


class Decoder(nn.Module):
    """One linear layer to 4 x 4, then double up to the image, halving channels."""

    def __init__(self, in_features: int, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, width)[::-1]
        self.stem = nn.Linear(in_features, widths[0] * SMALLEST**2)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), group_norm(after), nn.SiLU()]
        layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1))
        self.stages = nn.Sequential(*layers)

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units."""
        image: Tensor = self.stages(self.stem(latent).unflatten(1, (-1, SMALLEST, SMALLEST)))
        return image


def stage_widths(image_size: int, width: int) -> list[int]:
    """Channels after each halving: doubled each time, up to eight times `width`."""
    halvings = round(math.log2(image_size // SMALLEST))
    return [width * 2 ** min(index, 3) for index in range(halvings)]


def group_norm(channels: int) -> nn.GroupNorm:
    """At most eight groups of at least four channels (statistics of one row only, so rows never mix).

    Source: Wu & He 2018 (arXiv:1803.08494).
    """
    return nn.GroupNorm(max(1, min(8, channels // 4)), channels)
