"""The two networks a modality has: image to features, latent to image.

Cheap on a processor without matrix units: between pixels and a quarter of the resolution stands one
matrix product over patches of 4 x 4 pixels, and convolutions run from there on. Channels-last
throughout, which also makes reshaping to and from 4 x 4 x channels free.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 4
"""Height and width of the innermost feature map."""

PATCH = 4
"""Height and width of what one feature of the outermost map sees."""


class Encoder(nn.Module):
    """Embed patches, halve the map of features down to 4 x 4, then one linear layer."""

    def __init__(self, channels: int, image_size: int, out_features: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, width)
        self.embed = nn.Linear(PATCH**2 * channels, widths[0])
        layers: list[nn.Module] = [group_norm(widths[0]), nn.SiLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), group_norm(after), nn.SiLU()]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(SMALLEST**2 * widths[-1], out_features)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of an image."""
        patches = rearrange(image, "b c (h p) (w q) -> b h w (p q c)", p=PATCH, q=PATCH)
        innermost = self.stages(rearrange(self.embed(patches), "b h w c -> b c h w"))
        features: Tensor = self.head(rearrange(innermost, "b c h w -> b (h w c)"))
        return features


class Decoder(nn.Module):
    """One linear layer to 4 x 4, double the map up to a quarter of the size, then patches from features.

    The latent also scales and shifts the channels of every stage, so that a property of the whole
    image, such as a colour, need not be rebuilt through the convolutions.

    Source: Perez et al. 2018 (arXiv:1709.07871), FiLM.
    """

    def __init__(self, in_features: int, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, width)[::-1]
        self.stem = nn.Linear(in_features, SMALLEST**2 * widths[0])
        self.stages = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        # No norm before the last layer: it would take absolute brightness away.
        self.norms = nn.ModuleList([*(group_norm(after) for after in widths[1:-1]), nn.Identity()])
        self.modulations = nn.ModuleList(_modulation(in_features, after) for after in widths[1:])
        self.head = nn.Linear(widths[-1], PATCH**2 * channels)

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units."""
        hidden = rearrange(self.stem(latent), "b (h w c) -> b c h w", h=SMALLEST, w=SMALLEST)
        for stage, norm, modulation in zip(self.stages, self.norms, self.modulations, strict=True):
            scale, shift = modulation(latent)[:, :, None, None].chunk(2, dim=1)
            hidden = F.silu(torch.addcmul(shift, norm(stage(hidden)), 1 + scale))
        patches = self.head(rearrange(hidden, "b c h w -> b h w c"))
        by_pixel = rearrange(patches, "b h w (p q c) -> b (h p) (w q) c", p=PATCH, q=PATCH)
        image: Tensor = rearrange(by_pixel, "b h w c -> b c h w")
        return image


def stage_widths(image_size: int, width: int) -> list[int]:
    """Channels at each size from a quarter of the image down to 4 x 4.

    The innermost three are width, twice and four times width; finer ones stay at width.
    """
    stages = int(math.log2(image_size // SMALLEST)) - 1
    return [width * 2 ** max(0, index + 3 - stages) for index in range(stages)]


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups; statistics of one row only, so rows never mix.

    Source: Wu & He 2018 (arXiv:1803.08494).
    """
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _modulation(in_features: int, channels: int) -> nn.Linear:
    """Scale and shift per channel, half as strong at first as a linear layer usually is."""
    layer = nn.Linear(in_features, 2 * channels)
    nn.init.uniform_(layer.weight, -0.5 / math.sqrt(in_features), 0.5 / math.sqrt(in_features))
    return layer
