"""Networks for a processor without matrix units.

Between pixels and a quarter of the resolution stands one matrix product over patches of 4 x 4 pixels, and
convolutions run from there on. Channels-last throughout, which also makes reshaping to and from
4 x 4 x channels free.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
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

PATCH = 4
"""Height and width of what one feature of the outermost map sees."""


class PatchEncoder(nn.Module):
    """Embed patches, halve the map of features down to the innermost, then read off.

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
        widths = stage_widths(image_size, width, features.side or SMALLEST)
        self.innermost, self.dropout = widths[-1], dropout
        self.embed = nn.Linear(PATCH**2 * channels, widths[0])
        layers: list[nn.Module] = [make_norm(norm, widths[0]), nn.SiLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), make_norm(norm, after), nn.SiLU()]
        self.stages = nn.Sequential(*layers)
        self.head = make_head(widths[-1], features)

    def forward(
        self,
        image: Float[Tensor, "batch channel height width"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """Features of an image; `uniform` decides what dropout drops."""
        patches = rearrange(image, "b c (h p) (w q) -> b h w (p q c)", p=PATCH, q=PATCH)
        innermost = self.stages(rearrange(self.embed(patches), "b h w c -> b c h w"))
        innermost = drop_features(innermost, self.dropout, uniform, training=self.training)
        return read_off(self.head, innermost)


class PatchDecoder(nn.Module):
    """The innermost map from a latent, double it up to a quarter of the size, then patches from features.

    The latent also scales and shifts the channels of every stage, so that a property of the whole
    image, such as a colour, need not be rebuilt through the convolutions.

    Attributes:
        innermost: Channels of the innermost map.

    Source: Perez et al. 2018 (arXiv:1709.07871), FiLM.
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
        widths = stage_widths(image_size, width, latents.side)[::-1]
        conditions = condition_features(latents)
        self.innermost, self.dropout = widths[0], dropout
        self.stem = make_stem(latents, widths[0])
        self.stages = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        # No norm before the last layer: it would take absolute brightness away.
        last = [nn.Identity()] if len(widths) > 1 else []
        self.norms = nn.ModuleList([*(make_norm(norm, after) for after in widths[1:-1]), *last])
        self.modulations = nn.ModuleList(make_modulation(conditions, after) for after in widths[1:])
        self.head = nn.Linear(widths[-1], PATCH**2 * channels)

    def forward(
        self,
        latent: Float[Tensor, "batch latent"],
        uniform: Float[Tensor, "batch innermost"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units; `uniform` decides what dropout drops."""
        hidden = drop_features(unfold(self.stem, latent), self.dropout, uniform, training=self.training)
        conditions = condition(self.stem, latent)
        for stage, norm, modulation in zip(self.stages, self.norms, self.modulations, strict=True):
            hidden = F.silu(modulate(norm(stage(hidden)), modulation, conditions))
        patches = self.head(rearrange(hidden, "b c h w -> b h w c"))
        by_pixel = rearrange(patches, "b h w (p q c) -> b (h p) (w q) c", p=PATCH, q=PATCH)
        image: Tensor = rearrange(by_pixel, "b h w c -> b c h w")
        return image


def stage_widths(image_size: int, width: int, smallest: int = SMALLEST) -> list[int]:
    """Channels at each size from a quarter of the image down to the innermost map.

    The innermost three are width, twice and four times width; finer ones stay at width.
    """
    stages = int(math.log2(image_size // smallest)) - 1
    return [width * 2 ** max(0, index + 3 - stages) for index in range(stages)]
