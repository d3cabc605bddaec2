"""Residual networks, whose width and depth follow the image size.

Half of the resolution is the finest map of features, with `width` channels. One residual block stands at
every size from a quarter of the image down to the innermost map, so that images twice as large get one
block more.
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.layers import (
    SMALLEST,
    Features,
    Latents,
    Norm,
    condition,
    condition_features,
    drop_features,
    make_head,
    make_modulation,
    make_norm,
    make_stem,
    modulate,
    read_off,
    unfold,
)
from pipeline.models.network_patch import stage_widths


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity, which is all that it is at first.

    Source: He et al. 2016 (arXiv:1603.05027), full pre-activation; Goyal et al. 2017
        (arXiv:1706.02677), on starting from the identity; Perez et al. 2018
        (arXiv:1709.07871), FiLM after the second norm.
    """

    def __init__(self, channels: int, norm: Norm, conditions: int = 0) -> None:
        super().__init__()
        self.first_norm, self.second_norm = make_norm(norm, channels), make_norm(norm, channels)
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)
        self.modulation = make_modulation(conditions, channels) if conditions else None

    def forward(
        self,
        hidden: Float[Tensor, "batch channel height width"],
        conditions: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The features with what the convolutions add; `conditions` of the block that was made for them."""
        inner = self.second_norm(self.first(F.silu(self.first_norm(hidden))))
        if self.modulation is not None and conditions is not None:
            inner = modulate(inner, self.modulation, conditions)
        changed: Tensor = hidden + self.second(F.silu(inner))
        return changed


class ResidualEncoder(nn.Module):
    """Halve the image and then its features, with a residual block at each size, then read off.

    Attributes:
        innermost: Channels of the innermost map.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        features: Features,
        width: int,
        norm: Norm = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width, *stage_widths(image_size, width, features.side or SMALLEST)]
        self.innermost, self.dropout = widths[-1], dropout
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), make_norm(norm, width), nn.SiLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), ResidualBlock(after, norm)]
        self.stages = nn.Sequential(*layers, make_norm(norm, widths[-1]), nn.SiLU())
        self.head = make_head(widths[-1], features)

    def forward(
        self,
        image: Float[Tensor, "batch channel height width"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """Features of an image; `uniform` decides what dropout drops."""
        innermost = drop_features(self.stages(image), self.dropout, uniform, training=self.training)
        return read_off(self.head, innermost)


class ResidualDecoder(nn.Module):
    """The innermost map from a latent; a residual block at each size, then double it.

    The latent also scales and shifts the channels of every block.

    Attributes:
        innermost: Channels of the innermost map.
    """

    def __init__(
        self,
        latents: Latents,
        channels: int,
        image_size: int,
        width: int,
        norm: Norm = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width, *stage_widths(image_size, width, latents.side)][::-1]
        conditions = condition_features(latents)
        self.innermost, self.dropout = widths[0], dropout
        self.stem = make_stem(latents, widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(before, norm, conditions) for before in widths[:-1])
        self.doublings = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        # No norm before the last layer: it would take absolute brightness away.
        self.modulation = make_modulation(conditions, width)
        self.head = nn.ConvTranspose2d(width, channels, 4, 2, 1)

    def forward(
        self,
        latent: Float[Tensor, "batch latent"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units; `uniform` decides what dropout drops."""
        hidden = drop_features(unfold(self.stem, latent), self.dropout, uniform, training=self.training)
        conditions = condition(self.stem, latent)
        for block, doubling in zip(self.blocks, self.doublings, strict=True):
            hidden = doubling(block(hidden, conditions))
        image: Tensor = self.head(F.silu(modulate(hidden, self.modulation, conditions)))
        return image
