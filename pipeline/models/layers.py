"""What all networks share: norms, dropout, and the way between the innermost map and a latent.

A latent is a vector, read from and written to the whole innermost map of 4 x 4 by one linear layer; or a
map of [channels, height, width], in which case the network stops at that resolution and every position of
the latent belongs to the same place of the image.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["group", "batch", "none"]

SMALLEST = 4
"""Height and width of the innermost feature map of a network whose latent is a vector."""


@dataclass(frozen=True)
class Features:
    """What an encoder puts out: for each statistic (mean, log-variance) all features of it.

    Attributes:
        latent: Features per statistic that go with the shared latent.
        vector: Features per statistic that belong to no place.
        statistics: How many numbers describe each.
        side: Height and width over which `latent` is spread; None: it is a vector.
    """

    latent: int
    vector: int = 0
    statistics: int = 1
    side: int | None = None


@dataclass(frozen=True)
class Latents:
    """What a decoder takes: the shared latent, then a private one.

    Attributes:
        shared: Dimensions of a vector, or (channels, height, width) of a map.
        private: Dimensions of the private latent.
    """

    shared: int | tuple[int, int, int]
    private: int = 0

    @property
    def side(self) -> int:
        """Height and width of the map of features that is made of them."""
        return SMALLEST if isinstance(self.shared, int) else self.shared[1]


class MapHead(nn.Module):
    """From the innermost map to a latent map of its size, and to features of no place."""

    def __init__(self, channels: int, side: int, features: Features) -> None:
        super().__init__()
        self.statistics = features.statistics
        latent_channels = features.latent // side**2
        self.map = nn.Conv2d(channels, features.statistics * latent_channels, 3, 1, 1)
        self.vector = (
            nn.Linear(SMALLEST**2 * channels, features.statistics * features.vector)
            if features.vector
            else None
        )

    def forward(
        self, innermost: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        """For each statistic: the map flattened in the order channel, height, width; then the vector."""
        by_statistic: Tensor = rearrange(self.map(innermost), "b (s c) h w -> b s (c h w)", s=self.statistics)
        if self.vector is not None:
            coarse = rearrange(F.adaptive_avg_pool2d(innermost, SMALLEST), "b c h w -> b (h w c)")
            vector = rearrange(self.vector(coarse), "b (s f) -> b s f", s=self.statistics)
            by_statistic = torch.cat([by_statistic, vector], dim=2)
        return by_statistic.flatten(1)


class MapStem(nn.Module):
    """From a latent map, and a vector that belongs to no place, to the innermost map of features."""

    def __init__(self, shape: tuple[int, int, int], private: int, channels: int) -> None:
        super().__init__()
        self.shape = shape
        self.map = nn.Conv2d(shape[0], channels, 3, 1, 1)
        self.vector = nn.Linear(private, SMALLEST**2 * channels) if private else None

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel height width"]:
        """The map's features, and the vector's of 4 x 4 areas added to them."""
        shared, private = self._parts(latent)
        hidden: Tensor = self.map(shared.contiguous(memory_format=torch.channels_last))
        if self.vector is not None:
            coarse = rearrange(self.vector(private), "b (h w c) -> b c h w", h=SMALLEST, w=SMALLEST)
            hidden = hidden + F.interpolate(coarse, size=hidden.shape[2:])
        return hidden

    def whole(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch condition"]:
        """What the latent says about the whole image: the map's mean over places, and the vector."""
        shared, private = self._parts(latent)
        return torch.cat([shared.mean(dim=(2, 3)), private], dim=1)

    def _parts(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        size = math.prod(self.shape)
        return latent[:, :size].reshape(-1, *self.shape), latent[:, size:]


def make_head(channels: int, features: Features) -> nn.Linear | MapHead:
    """From an innermost map of so many channels to what the encoder puts out."""
    if features.side is not None:
        return MapHead(channels, features.side, features)
    return nn.Linear(SMALLEST**2 * channels, features.statistics * (features.latent + features.vector))


def read_off(
    head: nn.Module, innermost: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch feature"]:
    """Apply what `make_head` made."""
    whole = isinstance(head, MapHead)
    features: Tensor = head(innermost if whole else rearrange(innermost, "b c h w -> b (h w c)"))
    return features


def make_stem(latents: Latents, channels: int) -> nn.Linear | MapStem:
    """From latents to an innermost map of so many channels."""
    if isinstance(latents.shared, tuple):
        return MapStem(latents.shared, latents.private, channels)
    return nn.Linear(latents.shared + latents.private, SMALLEST**2 * channels)


def unfold(
    stem: nn.Module, latent: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch channel height width"]:
    """Apply what `make_stem` made."""
    if isinstance(stem, MapStem):
        innermost: Tensor = stem(latent)
    else:
        innermost = rearrange(stem(latent), "b (h w c) -> b c h w", h=SMALLEST, w=SMALLEST)
    return innermost


def condition_features(latents: Latents) -> int:
    """How many numbers `condition` gives."""
    channels = latents.shared if isinstance(latents.shared, int) else latents.shared[0]
    return channels + latents.private


def condition(stem: nn.Module, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch condition"]:
    """What the latent says about the whole image: all of it, unless it is a map."""
    return stem.whole(latent) if isinstance(stem, MapStem) else latent


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Normalise the features of a row, of the batch, or not at all."""
    match kind:
        case "group":
            return group_norm(channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "none":
            return nn.Identity()


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups; statistics of one row only, so rows never mix.

    Source: Wu & He 2018 (arXiv:1803.08494).
    """
    return nn.GroupNorm(math.gcd(8, channels), channels)


def make_modulation(conditions: int, channels: int) -> nn.Linear:
    """Scale and shift per channel, half as strong at first as a linear layer usually is.

    Source: Perez et al. 2018 (arXiv:1709.07871), FiLM.
    """
    layer = nn.Linear(conditions, 2 * channels)
    nn.init.uniform_(layer.weight, -0.5 / math.sqrt(conditions), 0.5 / math.sqrt(conditions))
    return layer


def modulate(
    hidden: Float[Tensor, "batch channel height width"],
    modulation: nn.Module,
    conditions: Float[Tensor, "batch condition"],
) -> Float[Tensor, "batch channel height width"]:
    """(1 + scale) * hidden + shift, channel by channel."""
    scale, shift = modulation(conditions)[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(shift, hidden, 1 + scale)


def drop_features(
    hidden: Float[Tensor, "batch channel height width"],
    share: float,
    uniform: Float[Tensor, "batch channel"] | None,
    *,
    training: bool,
) -> Float[Tensor, "batch channel height width"]:
    """Set whole channels to 0 and scale the others by 1 / (1 - share), which keeps the mean.

    Args:
        hidden: Features.
        share: Of channels to drop, in the mean.
        uniform: Numbers in [0, 1); a channel is dropped where its number is below `share`. None: none is.
        training: Then `uniform` is needed.

    Raises:
        ValueError: If `uniform` is missing in training.

    Source: Srivastava et al. 2014 (JMLR 15); whole channels: Tompson et al. 2015 (arXiv:1411.4280).
    """
    if share and training and uniform is None:
        raise ValueError("dropout in training needs uniform numbers, one per row and innermost channel")
    if not share or uniform is None:
        return hidden
    factor = (uniform >= share).to(hidden.dtype) / (1.0 - share)
    return hidden * factor[:, :, None, None]
