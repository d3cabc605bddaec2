"""Networks, and how the modalities share a latent."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import ModalityName, Positive, Section

Fusion = Literal["poe", "moe", "mopoe", "mvtcae", "mmvaeplus", "barycentre", "joint"]
Subsets = Literal["whole", "drawn", "each", "enumerated", "subsampled"]
PosteriorKind = Literal["gaussian", "deterministic", "implicit", "none"]

SMALLEST_MAP = 4
"""Height and width down to which networks halve a map of features."""

DENSITY_FUSIONS = ("poe", "mopoe", "mvtcae", "mmvaeplus")
"""They multiply or mix densities, so every expert must have one."""

SUBSETS: dict[Fusion, tuple[Subsets, ...]] = {
    "poe": ("whole", "subsampled"),
    "moe": ("drawn", "each"),
    "mopoe": ("drawn", "enumerated"),
    "mvtcae": ("whole",),
    "mmvaeplus": ("each",),
    "barycentre": ("drawn", "whole", "enumerated"),
    "joint": ("drawn", "whole", "enumerated"),
}
"""What the posterior may see in training under each fusion; the first is the default."""


class Model(Section):
    """Networks and how the modalities share a latent."""

    latent: Positive | tuple[Positive, Positive, Positive] = 32
    """Shared latent: dimensions of a vector, or [channels, height, width] of a map."""
    private: dict[ModalityName, Positive] = Field(default={"rgb": 16})
    """Dimensions only one modality is encoded into and decoded from."""
    network: Literal["patch", "residual", "plain"] = "patch"
    """Convolutions over embedded 4 x 4 patches, residual blocks, or plain stride-2 layers."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels of each network's outermost features; the innermost maps have up to four times as many."""
    norm: Literal["group", "batch", "none"] = "group"
    """Normalisation of features: within a row, over the batch, or none."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of innermost features set to 0 in training."""
    posterior: PosteriorKind | None = None
    """What encoders give: a Gaussian, a point, samples without a density, or no encoders at all.
    null: what objective.regulariser needs."""
    fusion: Fusion = "mopoe"
    """How what modalities say becomes one posterior: products or mixtures of experts and their bounds,
    the Wasserstein barycentre, or a joint encoder over the features of all."""
    subsets: Subsets | None = None
    """What the posterior of a row sees in training: all that is present, one drawn subset, each modality
    in turn, every subset, or MVAE's sub-sampled terms. null: the fusion's own."""
    subsampled_terms: Annotated[int, Field(ge=0)] = 1
    """Random subsets per row beside the whole and the single modalities, with subsets: subsampled."""
    joint_pool: Literal["mean", "attention"] = "mean"
    """How a joint encoder pools the features of the modalities it sees."""
    prior_expert: Literal["none", "full", "all"] | None = None
    """Unit-Gaussian expert: never, once per product, or once per expert. null: full, and none for mvtcae."""

    @property
    def latent_size(self) -> int:
        """Dimensions of the shared latent, however they are arranged."""
        return self.latent if isinstance(self.latent, int) else math.prod(self.latent)

    @property
    def seen_in_training(self) -> Subsets:
        """`subsets`, or the fusion's own."""
        return self.subsets or SUBSETS[self.fusion][0]

    def mistake_at(self, image_size: int) -> str | None:
        """Why networks cannot have images of this size, or such a map as latent; None if they can."""
        if image_size < 8 * SMALLEST_MAP or image_size & (image_size - 1):
            below = 1 << max(5, image_size.bit_length() - 1)
            nearest = f"{below}" if image_size < below else f"{below} or {2 * below}"
            return (
                f"image_size: a network halves its maps down to {SMALLEST_MAP} x {SMALLEST_MAP}, which "
                f"{image_size} px does not allow; the nearest valid: {nearest}"
            )
        if isinstance(self.latent, int):
            return None
        channels, height, width = self.latent
        sides = [1 << power for power in range(2, image_size.bit_length() - 2)]
        if height == width and height in sides:
            return None
        nearest_side = min(sides, key=lambda side: abs(math.log2(side * side / (height * width))))
        return (
            f"model.latent: a map of {height} x {width} is not an image of {image_size} px halved a few "
            f"times (to {', '.join(map(str, sides))}); the nearest valid: "
            f"[{channels}, {nearest_side}, {nearest_side}]"
        )

    @model_validator(mode="after")
    def _mvtcae_has_no_prior_expert(self) -> Model:
        if self.fusion == "mvtcae" and self.prior_expert not in (None, "none"):
            raise ValueError(
                f"fusion mvtcae needs prior_expert: none, not {self.prior_expert} "
                "(its bound already holds the KL to the prior)"
            )
        return self

    @model_validator(mode="after")
    def _prior_expert_joins_a_product(self) -> Model:
        if self.prior_expert is not None and self.fusion not in ("poe", "mopoe", "mvtcae"):
            raise ValueError(
                f"prior_expert: {self.prior_expert} joins a product of experts, which fusion {self.fusion} "
                "is not; leave it out, or choose fusion: mopoe"
            )
        return self

    @model_validator(mode="after")
    def _subsets_suit_the_fusion(self) -> Model:
        allowed = SUBSETS[self.fusion]
        if self.subsets is not None and self.subsets not in allowed:
            raise ValueError(
                f"fusion {self.fusion} cannot be trained with subsets: {self.subsets}; "
                f"choose {' or '.join(allowed)}"
            )
        return self
