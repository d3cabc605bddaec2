"""Discriminators of latents: of codes alone, and of latents given what they were encoded from.

Rows never mix: no batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

PATCH = 4
"""Height and width of what one feature of the contrast's outermost map sees."""

SMALLEST = 4
"""Its maps are halved until they are at most this high."""


class LatentDiscriminator(nn.Module):
    """Three hidden layers over a code: for the aggregate posterior (AAE) and total correlation (FactorVAE).

    Source: Makhzani et al. 2015 (arXiv:1511.05644); leaky units as in Kim & Mnih 2018
        (arXiv:1802.05983).
    """

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_hidden(latent, width), *_hidden(width, width), *_hidden(width, width))
        self.head = nn.Linear(width, 1)

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """One logit per row."""
        logits: Tensor = self.head(self.layers(latent))
        return logits[:, 0]


class ContrastDiscriminator(nn.Module):
    """T(x, z): a log ratio of densities of z given the scene x.

    Between two Gaussians the log ratio is a quadratic in z whose coefficients depend on x. That part is
    written out, and a network adds the rest:

        T(x, z) = c(x) + a(x) . z + b(x) . z^2 + network(x, z, z^2)

    All of it is 0 at first, so the KL it corrects starts as that of the Gaussian with the posterior's
    moments.

    Attributes:
        see: The scene's features.
        quadratic: c, a and b, linear in the features.
        layers: The network's hidden layers.
        head: Its last layer.
    """

    def __init__(self, channels: int, image_size: int, latent: int, width: int) -> None:
        super().__init__()
        self.see = SceneFeatures(channels, image_size, width)
        self.quadratic = _zero(nn.Linear(width, 1 + 2 * latent))
        self.layers = nn.Sequential(*_hidden(width + 2 * latent, width), *_hidden(width, width))
        self.head = _zero(nn.Linear(width, 1))

    def forward(
        self,
        scene: Float[Tensor, "batch channel height width"],
        latent: Float[Tensor, "batch draw latent"],
    ) -> Float[Tensor, "batch draw"]:
        """One logit for each of several latents of a scene, which is encoded once.

        Args:
            scene: From `seen_scene`.
            latent: Latents to judge; each is judged alone.
        """
        features = self.see(scene)
        moments = torch.cat([latent, latent.square()], dim=2)
        coefficients = self.quadratic(features)[:, None]
        quadratic = coefficients[..., 0] + (coefficients[..., 1:] * moments).sum(dim=2)
        repeated = features[:, None].expand(-1, latent.shape[1], -1)
        rest = self.head(self.layers(torch.cat([repeated, moments.to(features.dtype)], dim=2)))[..., 0]
        logits: Tensor = quadratic + rest
        return logits


class SceneFeatures(nn.Module):
    """Patches of 4 x 4, stride-2 convolutions down to at most 4 x 4, one linear layer: works at any size."""

    def __init__(self, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        outer = min(width, 64)
        layers: list[nn.Module] = [nn.Conv2d(channels, outer, PATCH, PATCH), *_normal_leaky(outer)]
        size = image_size // PATCH
        while size > SMALLEST:
            layers += [nn.Conv2d(outer, outer, 3, 2, 1), *_normal_leaky(outer)]
            size = math.ceil(size / 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), *_hidden(outer * size**2, width))

    def forward(self, scene: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of a scene."""
        features: Tensor = self.layers(scene)
        return features


def scene_channels(channels: Mapping[str, int]) -> int:
    """Channels of `seen_scene`, from the channels of each modality's network input."""
    return sum(channels.values()) + len(channels)


def seen_scene(
    images: Mapping[str, Float[Tensor, "batch _ height width"]], seen: Bool[Tensor, "modality batch"]
) -> Float[Tensor, "batch channel height width"]:
    """What a posterior saw, as one image: every modality's network input, and a plane that says whether.

    The ratio is one of q(z | what was seen). What was not seen is 0 and cannot leak in, NaN included.

    Args:
        images: Network inputs of all modalities of the model, in its order, masks included.
        seen: Which row's posterior saw which modality.
    """
    planes = []
    for image, row in zip(images.values(), seen, strict=True):
        mask = row[:, None, None, None]
        planes += [torch.where(mask, image, 0.0), mask.expand_as(image[:, :1]).to(image.dtype)]
    return torch.cat(planes, dim=1)


def _hidden(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.LeakyReLU(0.2)]


def _normal_leaky(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(math.gcd(8, channels), channels), nn.LeakyReLU(0.2)]


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
