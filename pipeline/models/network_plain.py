"""The four-layer network of the field's libraries, for comparisons like for like.

At 64 px: 4 x 4 convolutions of stride 2 with width, 2, 4 and 8 times width channels, ReLU, one linear layer;
the decoder mirrors it. Larger images have further layers of 8 times width.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.layers import (
    SMALLEST,
    Features,
    Latents,
    Norm,
    drop_features,
    make_head,
    make_norm,
    make_stem,
    read_off,
    unfold,
)


class PlainEncoder(nn.Module):
    """Halve the image down to the innermost map, then read off.

    Attributes:
        innermost: Channels of the innermost map.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        features: Features,
        width: int,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [channels, *plain_widths(image_size, width, features.side or SMALLEST)]
        self.innermost, self.dropout = widths[-1], dropout
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), make_norm(norm, after), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.head = make_head(widths[-1], features)

    def forward(
        self,
        image: Float[Tensor, "batch channel height width"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """Features of an image; `uniform` decides what dropout drops."""
        innermost = drop_features(self.stages(image), self.dropout, uniform, training=self.training)
        return read_off(self.head, innermost)


class PlainDecoder(nn.Module):
    """The innermost map from a latent, then double it up to the image.

    Attributes:
        innermost: Channels of the innermost map.
    """

    def __init__(
        self,
        latents: Latents,
        channels: int,
        image_size: int,
        width: int,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = plain_widths(image_size, width, latents.side)[::-1]
        self.innermost, self.dropout = widths[0], dropout
        self.stem = make_stem(latents, widths[0])
        self.stages = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_norm(norm, after) for after in widths[1:])
        self.head = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)

    def forward(
        self,
        latent: Float[Tensor, "batch latent"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units; `uniform` decides what dropout drops."""
        hidden = drop_features(unfold(self.stem, latent), self.dropout, uniform, training=self.training)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            hidden = F.relu(norm(stage(hidden)))
        image: Tensor = self.head(hidden)
        return image


def plain_widths(image_size: int, width: int, smallest: int = SMALLEST) -> list[int]:
    """Channels at each size from half of the image to the innermost map: doubling, at most 8 times width."""
    return [width * 2 ** min(stage, 3) for stage in range(int(math.log2(image_size // smallest)))]
