"""From what experts say to a posterior, and what stands in for one where nothing is seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.model import Fusion
from pipeline.models.fusion import PriorExperts, barycentre, mixture_of_experts, product_of_experts
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Experts, Posterior

LOGVAR_RANGE = (-12.0, 8.0)
"""Log-variances of experts are clamped to this, so that one bad row cannot make a loss infinite."""

POINT_LOGVAR = -40.0
"""Log-variance that stands for a point: a draw from it is its mean, and every density stays finite."""


def fuse_experts(
    fusion: Fusion,
    experts: Experts,
    seen: Bool[Tensor, "modality rows"],
    prior_experts: PriorExperts,
    *,
    points: bool,
) -> Gaussian:
    """The posterior of the shared latent from the densities of the experts that are seen.

    Args:
        fusion: Any but a joint encoder, which has no densities to fuse.
        experts: Densities, or points: their means.
        seen: What may be used of them.
        prior_experts: Of a product.
        points: Whether the experts are points. Whatever averages points averages their means.
    """
    assert fusion != "joint"
    match fusion:
        case "poe" | "mopoe" | "mvtcae":
            return product_of_experts(experts.mean, experts.logvar, seen, prior_experts)
        case "moe" | "mmvaeplus" if not points:
            return mixture_of_experts(experts.mean, experts.logvar, seen)
        case "moe" | "mmvaeplus" | "barycentre":
            logvar = torch.full_like(experts.mean, POINT_LOGVAR) if points else experts.logvar
            return barycentre(experts.mean, logvar, seen)


def point(mean: Float[Tensor, "batch _"]) -> Gaussian:
    """All of the density at one place."""
    return Gaussian(mean, torch.full_like(mean, POINT_LOGVAR))


def prior_unless(seen: Bool[Tensor, " batch"], gaussian: Gaussian) -> Gaussian:
    """N(0, I) in rows of which nothing is seen."""
    mask = seen[:, None]
    return Gaussian(torch.where(mask, gaussian.mean, 0.0), torch.where(mask, gaussian.logvar, 0.0))


def standard_posterior(rows: int, latent: int, private: Mapping[str, int], like: Tensor) -> Posterior:
    """N(0, I) over every latent, of the kind and in the place of another tensor."""

    def standard(width: int) -> Gaussian:
        zero = torch.zeros(rows, width, dtype=like.dtype, device=like.device)
        return Gaussian(zero, zero)

    return Posterior(standard(latent), {name: standard(width) for name, width in private.items()})
