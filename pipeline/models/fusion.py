"""How the experts of the modalities become one posterior.

All of it is elementwise over latents and independent between rows, and computed in float32 or better
whatever precision the experts come in.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.models.gaussian import Gaussian

PriorExperts = Literal["none", "full", "all"]


def product_of_experts(
    mean: Float[Tensor, "expert batch latent"],
    logvar: Float[Tensor, "expert batch latent"],
    present: Bool[Tensor, "expert batch"],
    prior_experts: PriorExperts,
) -> Gaussian:
    """Multiply the densities of the experts that are present: precisions add, means are averaged by them.

    A row without any expert gets the prior N(0, I), whatever `prior_experts` says. What an absent
    expert holds, NaN included, changes neither the result nor any gradient.

    Args:
        mean: Expert means.
        logvar: Natural log of expert variances.
        present: False where a row lacks the expert.
        prior_experts: How many unit-Gaussian experts join: `none`; `full`, one per product; `all`, one
            with each expert that is present.

    Returns:
        The fused posterior.

    Raises:
        ValueError: If the expert axis has length zero.

    Source: Hinton 2002, products of experts; Wu & Goodman 2018 (arXiv:1802.05335), the joint posterior
        as a product of experts. Softmax and log-sum-exp keep log-variances of any size finite.
    """
    if mean.shape[0] == 0:
        raise ValueError("mean has no expert: a product of experts needs at least one")
    mean, logvar = at_least_float32(mean), at_least_float32(logvar)
    mask = present[..., None]
    log_precision = torch.where(mask, -logvar, -torch.inf)
    prior_log_precision = _prior_count(present, prior_experts).to(logvar.dtype).log()
    prior_row = prior_log_precision[None, :, None].expand(1, -1, logvar.shape[-1])
    log_precision = torch.cat([log_precision, prior_row])
    weight = log_precision.softmax(dim=0)[:-1]
    fused_mean = (weight * torch.where(mask, mean, 0.0)).sum(dim=0)
    return Gaussian(fused_mean, -log_precision.logsumexp(dim=0))


def mixture_of_experts(
    mean: Float[Tensor, "expert batch latent"],
    logvar: Float[Tensor, "expert batch latent"],
    present: Bool[Tensor, "expert batch"],
) -> Gaussian:
    """The Gaussian with the moments of the uniform mixture of the experts that are present.

    One expert is itself. A row without any expert gets the prior N(0, I). What an absent expert holds,
    NaN included, changes neither the result nor any gradient.

    Raises:
        ValueError: If the expert axis has length zero.

    Source: Shi et al. 2019 (arXiv:1911.03393), the joint posterior as a mixture of experts; the moments
        of a mixture.
    """
    mean, logvar, weight = _present(mean, logvar, present)
    centre = (weight * mean).sum(dim=0)
    spread = (weight * (logvar.exp() + (mean - centre).square())).sum(dim=0)
    return _or_prior(centre, spread.clamp(min=torch.finfo(spread.dtype).tiny).log(), present)


def barycentre(
    mean: Float[Tensor, "expert batch latent"],
    logvar: Float[Tensor, "expert batch latent"],
    present: Bool[Tensor, "expert batch"],
) -> Gaussian:
    """The Wasserstein-2 barycentre of the experts that are present, all weighted the same.

    Of diagonal Gaussians: the mean of the means and of the standard deviations. A row without any
    expert gets the prior N(0, I). What an absent expert holds, NaN included, changes neither the result
    nor any gradient.

    Raises:
        ValueError: If the expert axis has length zero.

    Source: Agueh & Carlier 2011, "Barycenters in the Wasserstein space", for Gaussians whose covariances
        commute.
    """
    mean, logvar, weight = _present(mean, logvar, present)
    scale = (weight * (0.5 * logvar).exp()).sum(dim=0)
    logvar = 2.0 * scale.clamp(min=torch.finfo(scale.dtype).tiny).log()
    return _or_prior((weight * mean).sum(dim=0), logvar, present)


def at_least_float32(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision becomes float32; float32 and float64 stay."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _prior_count(present: Bool[Tensor, "expert batch"], prior_experts: PriorExperts) -> Tensor:
    experts = present.sum(dim=0)
    match prior_experts:
        case "none":
            count = torch.zeros_like(experts)
        case "full":
            count = torch.ones_like(experts)
        case "all":
            count = experts
    return torch.where(experts > 0, count, 1)


def _present(
    mean: Float[Tensor, "expert batch latent"],
    logvar: Float[Tensor, "expert batch latent"],
    present: Bool[Tensor, "expert batch"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Means and log-variances, 0 where absent, and the weight of each expert: one over their number.

    What is absent is cut off before anything is computed from it: behind `exp`, a NaN would still reach
    the gradient as 0 * NaN.

    Raises:
        ValueError: If the expert axis has length zero.
    """
    if mean.shape[0] == 0:
        raise ValueError("mean has no expert: a fusion of experts needs at least one")
    mask = present[..., None]
    mean = torch.where(mask, at_least_float32(mean), 0.0)
    logvar = torch.where(mask, at_least_float32(logvar), 0.0)
    weight = mask.to(logvar.dtype) / present.sum(dim=0).clamp(min=1)[None, :, None]
    return mean, logvar, weight


def _or_prior(
    mean: Float[Tensor, "batch latent"],
    logvar: Float[Tensor, "batch latent"],
    present: Bool[Tensor, "expert batch"],
) -> Gaussian:
    """N(0, I) in rows without any expert."""
    known = present.any(dim=0)[:, None]
    return Gaussian(torch.where(known, mean, 0.0), torch.where(known, logvar, 0.0))
