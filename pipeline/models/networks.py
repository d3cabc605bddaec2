"""The two networks a modality has: image to features, latent to image.

Cheap on a processor without matrix units: the first convolution goes straight to a quarter of the
resolution, the last one comes from there, so that no wide layer runs on a large map. Channels-last
throughout, which also makes reshaping to and from 4 x 4 x channels free.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 4
"""Height and width of the innermost feature map."""


class Encoder(nn.Module):
    """To a quarter of the size at once, then halve down to 4 x 4, then one linear layer."""

    def __init__(self, channels: int, image_size: int, out_features: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 8, 4, 2), group_norm(widths[0]), nn.SiLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), group_norm(after), nn.SiLU()]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(SMALLEST**2 * widths[-1], out_features)

    def forward(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of an image."""
        innermost = self.stages(image.contiguous(memory_format=torch.channels_last))
        features: Tensor = self.head(innermost.permute(0, 2, 3, 1).flatten(1))
        return features


class Decoder(nn.Module):
    """One linear layer to 4 x 4, double up to a quarter of the size, then to the image at once.

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
        self.head = nn.ConvTranspose2d(widths[-1], channels, 8, 4, 2)

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        """The image a latent stands for, in network units."""
        hidden = self.stem(latent).unflatten(1, (SMALLEST, SMALLEST, -1)).permute(0, 3, 1, 2)
        for stage, norm, modulation in zip(self.stages, self.norms, self.modulations, strict=True):
            scale, shift = modulation(latent)[:, :, None, None].chunk(2, dim=1)
            hidden = F.silu(torch.addcmul(shift, norm(stage(hidden)), 1 + scale))
        image: Tensor = self.head(hidden)
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
