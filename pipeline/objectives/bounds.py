"""Importance-weighted bounds of a mixture of experts, and the gradients they are followed with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pipeline.config.objective import KlRegulariser, Objective
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Experts, Output
from pipeline.models.views import Views


def mixture_bound(
    modalities: Sequence[str],
    output: Output,
    reconstruction: Float[Tensor, " rows"],
    views: Views,
    objective: Objective,
    *,
    beta: float,
) -> Float[Tensor, ""]:
    """Minus the bound of MMVAE (moe) and MMVAE+ (mmvaeplus), summed over rows.

    With M modalities present, K draws z from each expert q_m and w_m from q(w_m | x_m):

        - 1/M sum_m log 1/K sum_k p(x | z, w) [p(z) p(w_m) / (q(z | x) q(w_m | x_m))]^beta

    where q(z | x) = 1/M sum_m q_m(z) and private latents of other modalities are draws from their
    auxiliary prior, which weigh nothing.

    Args:
        modalities: Of the model, in its order.
        output: One block of rows per draw and view; view m is encoded from modality m alone.
        reconstruction: -log p(x | z, w) of each row, weighted by modality.
        views: Of `output`; their weights are 1 / (M K).
        objective: Its regulariser says how many draws and which gradient.
        beta: Factor on the log ratio of densities.

    Source: Shi et al. 2019 (arXiv:1911.03393), equation 4; Palumbo, Daunhawer & Vogt 2023 (MMVAE+, ICLR),
        equation 8.
    """
    regulariser = objective.regulariser
    assert isinstance(regulariser, KlRegulariser)
    draws, experts = regulariser.importance_samples, output.experts
    doubly = regulariser.estimator == "dreg" and draws > 1
    everyone = experts.repeated(output.given.shape[1] // experts.present.shape[1])
    seen = output.given & everyone.present
    log_ratio = _log_normal(output.shared) - log_mixture(output.shared, everyone, fixed=doubly)
    for name, value in output.private.items():
        own = _maybe_fixed(output.posterior.private[name], doubly)
        ratio = _log_normal(value) - own.log_prob(value).sum(dim=1)
        log_ratio = log_ratio + torch.where(seen[modalities.index(name)], ratio, 0.0)
    log_weight = rearrange(beta * log_ratio - reconstruction, "(draw rest) -> draw rest", draw=draws)
    view_weight = rearrange(views.weight, "(draw rest) -> draw rest", draw=draws).sum(dim=0)
    if doubly:
        return -doubly_reparameterised(log_weight, view_weight, [output.shared, *output.private.values()])
    return -(view_weight * importance_weighted(log_weight)).sum()


def importance_weighted(log_weight: Float[Tensor, "draw batch"]) -> Float[Tensor, " batch"]:
    """Log of the mean over draws of exp(log weight): a lower bound on log p(x) that grows with draws.

    Source: Burda, Grosse & Salakhutdinov 2015 (arXiv:1509.00519), equation 8.
    """
    return log_weight.logsumexp(dim=0) - math.log(len(log_weight))


def doubly_reparameterised(
    log_weight: Float[Tensor, "draw batch"],
    weight: Float[Tensor, " batch"],
    latents: list[Float[Tensor, "rows _"]],
) -> Float[Tensor, ""]:
    """A number whose gradient is the doubly reparameterised one of the weighted sum of bounds.

    With normalised weights v_k, parameters of the likelihood follow sum_k v_k d log w_k, and those of the
    posterior, reached through the draws alone, sum_k v_k^2 d log w_k / dz_k dz_k. The value is that of
    the bound. At the exact posterior the gradient of the posterior is exactly 0.

    Args:
        log_weight: Computed with the posterior's parameters held fixed, so that they act through the
            draws alone.
        weight: Factor of each row's bound.
        latents: The draws, whose rows are blocks of the columns of `log_weight`, one per draw. Their
            gradient is scaled once more by v_k.

    Source: Tucker et al. 2018 (arXiv:1810.04152), equation 8.
    """
    share = log_weight.detach().softmax(dim=0)
    by_row = share.flatten()[:, None]
    for latent in latents:
        if latent.requires_grad:
            latent.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradient * by_row.to(gradient.dtype)
            )
    value = (weight * importance_weighted(log_weight.detach())).sum()
    surrogate = (weight * (share * log_weight).sum(dim=0)).sum()
    return value + surrogate - surrogate.detach()


def log_mixture(
    value: Float[Tensor, "rows latent"], experts: Experts, *, fixed: bool = False
) -> Float[Tensor, " rows"]:
    """Log of the mean density of the experts that are present, in nats.

    Args:
        value: Where.
        experts: As many rows as values. What an absent one holds, NaN included, changes nothing.
        fixed: Hold the experts' parameters fixed: no gradient reaches them.
    """
    mask = experts.present[..., None]
    mean, logvar = torch.where(mask, experts.mean, 0.0), torch.where(mask, experts.logvar, 0.0)
    if fixed:
        mean, logvar = mean.detach(), logvar.detach()
    each = torch.stack([Gaussian(m, s).log_prob(value).sum(dim=1) for m, s in zip(mean, logvar, strict=True)])
    each = torch.where(experts.present, each, -torch.inf)
    count = experts.present.sum(dim=0)
    empty = count == 0
    total = torch.where(empty, 0.0, each).logsumexp(dim=0)
    return torch.where(empty, _log_normal(value), total - count.clamp(min=1).log())


def _log_normal(value: Float[Tensor, "rows latent"]) -> Float[Tensor, " rows"]:
    """Log N(value; 0, I)."""
    zero = torch.zeros_like(value)
    return Gaussian(zero, zero).log_prob(value).sum(dim=1)


def _maybe_fixed(gaussian: Gaussian, fixed: bool) -> Gaussian:
    return Gaussian(gaussian.mean.detach(), gaussian.logvar.detach()) if fixed else gaussian
