"""Importance-weighted bounds of a mixture of experts, and the gradients they are followed with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
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

    Source: Shi et al. 2019 (arXiv:1911.03393), the importance-weighted bound of a mixture of experts;
        Palumbo, Daunhawer & Vogt 2023 (MMVAE+, ICLR), the same with private latents.
    """
    regulariser = objective.regulariser
    assert isinstance(regulariser, KlRegulariser)
    draws, experts = regulariser.importance_samples, output.experts
    doubly = regulariser.estimator == "dreg"
    everyone = experts.repeated(output.given.shape[1] // experts.present.shape[1])
    seen = output.given & everyone.present
    own = {name: seen[modalities.index(name)] for name in output.private}
    log_ratio = _log_normal(output.shared) - log_mixture(output.shared, everyone, fixed=doubly)
    for name, value in output.private.items():
        posterior = _maybe_fixed(output.posterior.private[name], doubly)
        ratio = _log_normal(value) - posterior.log_prob(value).sum(dim=1)
        log_ratio = log_ratio + torch.where(own[name], ratio, 0.0)
    log_weight = rearrange(beta * log_ratio - reconstruction, "(draw rest) -> draw rest", draw=draws)
    view_weight = rearrange(views.weight, "(draw rest) -> draw rest", draw=draws).sum(dim=0)
    if doubly:
        return -doubly_reparameterised(log_weight, view_weight, output, own, beta=beta)
    return -(view_weight * importance_weighted(log_weight)).sum()


def importance_weighted(log_weight: Float[Tensor, "draw batch"]) -> Float[Tensor, " batch"]:
    """Log of the mean over draws of exp(log weight): a lower bound on log p(x) that grows with draws.

    Source: Burda, Grosse & Salakhutdinov 2015 (arXiv:1509.00519), the bound of K samples.
    """
    return log_weight.logsumexp(dim=0) - math.log(len(log_weight))


def doubly_reparameterised(
    log_weight: Float[Tensor, "draw batch"],
    weight: Float[Tensor, " batch"],
    output: Output,
    own: dict[str, Bool[Tensor, " rows"]],
    *,
    beta: float,
) -> Float[Tensor, ""]:
    """The weighted sum of bounds, with a gradient of the same expectation that holds no score function.

    With normalised weights v, parameters of the likelihood follow v d log w. A posterior's parameters act
    through its draws, and through the densities in the weights, whose scores are turned into a second
    movement of the draws. For z of expert m, with responsibility r_n of each expert n for it and
    q = mean of q_n, that is

        v dlog w/dz dz/dphi_m - beta v [(1 - v) dlog w/dz + dlog(q_m / q)/dz] sum_n r_n dz/dphi_n

    where dz/dphi_n moves z as if expert n had drawn it. With a single density, as of private latents, and
    beta 1 this is v^2 dlog w/dz. At the exact posterior it is exactly 0. (MMVAE takes v^2 dlog w/dz for a
    mixture as well, whose expectation is not the gradient of the bound.) Draws of auxiliary priors, which
    weigh nothing, keep v dlog w/dw.

    Args:
        log_weight: Computed with the posterior's parameters held fixed, so that they act through the
            draws alone.
        weight: Factor of each row's bound.
        output: Its draws' rows are blocks of the columns of `log_weight`, one per draw. No other loss may
            reach its draws: their gradient is taken to be that of the bound.
        own: Rows whose private latent was drawn from what it is weighed by.
        beta: Exponent of the densities' ratio in the weights.

    Source: Tucker et al. 2018 (arXiv:1810.04152), IWAE-DReG; Bauer & Mnih 2021 (arXiv:2101.11046), for
        densities other than the one drawn from.
    """
    share = log_weight.detach().softmax(dim=0)
    surrogate = (weight * (share * log_weight).sum(dim=0)).sum()
    row_share, row_weight = share.flatten(), weight.repeat(len(log_weight))
    score = beta * (1.0 - row_share)
    for name, value in output.private.items():
        _scale_gradient(value, torch.where(own[name], 1.0 - score, 1.0))
    _move_again(output, -score)
    everyone = output.experts.repeated(len(row_share) // output.experts.present.shape[1])
    again = _drawn_by_each(output.shared.detach(), everyone)
    drawn_from = _maybe_fixed(output.posterior.shared, True)
    excess = drawn_from.log_prob(again).sum(dim=1) - log_mixture(again, everyone, fixed=True)
    surrogate = surrogate - beta * (row_weight * row_share * excess).sum()
    value = (weight * importance_weighted(log_weight.detach())).sum()
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
    each = _log_densities(value, experts, fixed=fixed)
    count = experts.present.sum(dim=0)
    empty = count == 0
    total = torch.where(empty, 0.0, each).logsumexp(dim=0)
    return torch.where(empty, _log_normal(value), total - count.clamp(min=1).log())


def _log_densities(
    value: Float[Tensor, "rows latent"], experts: Experts, *, fixed: bool
) -> Float[Tensor, "modality rows"]:
    """Of each expert; minus infinity where it is absent."""
    mean, logvar = _moments(experts)
    if fixed:
        mean, logvar = mean.detach(), logvar.detach()
    each = [Gaussian(m, s).log_prob(value).sum(dim=1) for m, s in zip(mean, logvar, strict=True)]
    return torch.where(experts.present, torch.stack(each), -torch.inf)


def _moments(experts: Experts) -> tuple[Tensor, Tensor]:
    """Means and log-variances, 0 where absent."""
    mask = experts.present[..., None]
    return torch.where(mask, experts.mean, 0.0), torch.where(mask, experts.logvar, 0.0)


def _drawn_by_each(value: Float[Tensor, "rows latent"], experts: Experts) -> Float[Tensor, "rows latent"]:
    """The value, as a function of the parameters of every expert by its responsibility for it.

    It is sum_n r_n (mean_n + sigma_n noise_n), where noise_n makes expert n draw the value; r_n and noise_n
    are held fixed.
    """
    mean, logvar = _moments(experts)
    fixed_mean, fixed_logvar = mean.detach(), logvar.detach()
    each = _log_densities(value, experts, fixed=True)
    responsibility = torch.where(experts.present.any(dim=0), each, 0.0).softmax(dim=0)[..., None]
    moved = mean + (value - fixed_mean) * torch.exp(0.5 * (logvar - fixed_logvar))
    return (responsibility * moved).sum(dim=0)


def _scale_gradient(value: Float[Tensor, "rows _"], factor: Float[Tensor, " rows"]) -> None:
    """Multiply the gradient that reaches each row."""
    if value.requires_grad:
        value.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * factor[:, None].to(gradient.dtype)
        )


def _move_again(output: Output, factor: Float[Tensor, " rows"]) -> None:
    """Give experts once more what reaches draws of the shared latent, times a factor, by responsibility."""
    experts, value = output.experts, output.shared
    if not experts.feature.requires_grad:
        return
    arrived: list[Tensor] = []

    def add(gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            feature = experts.feature.detach().requires_grad_()
            everyone = Experts(feature, experts.present, {}).repeated(len(value) // feature.shape[1])
            again = _drawn_by_each(value.detach(), everyone)
        (more,) = torch.autograd.grad(again, feature, factor[:, None].to(again.dtype) * arrived.pop())
        return gradient + more

    value.register_hook(arrived.append)  # type: ignore[no-untyped-call]
    experts.feature.register_hook(add)  # type: ignore[no-untyped-call]


def _log_normal(value: Float[Tensor, "rows latent"]) -> Float[Tensor, " rows"]:
    """Log N(value; 0, I)."""
    zero = torch.zeros_like(value)
    return Gaussian(zero, zero).log_prob(value).sum(dim=1)


def _maybe_fixed(gaussian: Gaussian, fixed: bool) -> Gaussian:
    return Gaussian(gaussian.mean.detach(), gaussian.logvar.detach()) if fixed else gaussian
