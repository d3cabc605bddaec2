"""Densities of latents compared by a discriminator: adversarial autoencoders and variational Bayes.

The logit of an optimal logistic discriminator is the log ratio of two densities. Everything here
follows from that, and says which of the two is on top.

In a discriminator's step its inputs are detached here. In the model's step the caller freezes the
discriminator's parameters (`requires_grad_(False)`); the gradient through its input is what trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.models.fusion import at_least_float32
from pipeline.models.gaussian import Gaussian

LatentLogit = Callable[[Tensor], Tensor]
"""Latents (batch latent) to logits (batch), such as `LatentDiscriminator`, wrapped or not."""

ContrastLogit = Callable[[Tensor, Tensor], Tensor]
"""Scenes (batch channel height width) and latents (batch draw latent) to logits (batch draw)."""


def logistic_contrast(
    numerator: Float[Tensor, " batch"], denominator: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """[softplus(-T(a)) + softplus(T(b))] / 2: minimised over T by T = log p_a - log p_b.

    Nats per row; log 2 for a T that is 0 everywhere. At the optimum it is log 2 less the
    Jensen-Shannon divergence.

    Args:
        numerator: Logits of draws from p_a.
        denominator: Logits of draws from p_b.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), the optimal discriminator, as a loss to minimise.
    """
    return 0.5 * (F.softplus(-at_least_float32(numerator)) + F.softplus(at_least_float32(denominator)))


def density_ratio_loss(
    discriminator: LatentLogit,
    numerator: Float[Tensor, "batch latent"],
    denominator: Float[Tensor, "batch latent"],
) -> Float[Tensor, " batch"]:
    """What teaches a discriminator log p_numerator - log p_denominator, per row; the draws are detached.

    Both halves pass through it as one batch, so that a wrapper that averages gradients over processes
    sees one forward for one backward.
    """
    logits = discriminator(torch.cat([numerator, denominator]).detach())
    return logistic_contrast(*logits.chunk(2))


def aae_discriminator_loss(
    discriminator: LatentLogit, codes: Float[Tensor, "batch latent"], draws: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Tell draws from the prior (positive) from codes (negative): log 2 per row when they are alike.

    Source: Makhzani et al. 2015 (arXiv:1511.05644), the first part of the regularisation phase.
    """
    return density_ratio_loss(discriminator, draws, codes)


def aae_encoder_loss(
    discriminator: LatentLogit, codes: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Make codes pass for draws from the prior: -log sigmoid of their logit, per row.

    Source: Makhzani et al. 2015 (arXiv:1511.05644), the second part of the regularisation
        phase, with the non-saturating loss of Goodfellow et al. 2014 (arXiv:1406.2661).
    """
    return F.softplus(-at_least_float32(discriminator(codes)))


def standardise(z: Float[Tensor, "batch latent"], moments: Gaussian) -> Float[Tensor, "batch latent"]:
    """z_hat = (z - mean) / sigma with the moments detached: what is left is how z is not that Gaussian."""
    mean, logvar = _constant(moments)
    return (at_least_float32(z) - mean) * torch.exp(-0.5 * logvar)


def avb_discriminator_loss(
    discriminator: ContrastLogit,
    scene: Float[Tensor, "batch channel height width"],
    z: Float[Tensor, "batch latent"],
    noise: Float[Tensor, "batch latent"],
    moments: Gaussian | None,
) -> Float[Tensor, " batch"]:
    """Tell z, standardised by the moments, from noise, given the scene: per row; z is detached.

    Args:
        discriminator: T.
        scene: What the posterior saw.
        z: A draw from the implicit posterior of each row.
        noise: Draws from N(0, I), independent of those that z is made of.
        moments: Mean and variance of z given each row (adaptive contrast), or None: T is to compare z
            itself with the prior.

    Source: Mescheder, Nowozin & Geiger 2017 (arXiv:1701.04722), the discriminator's objective,
        and with moments adaptive contrast.
    """
    z = z.detach()
    contrasted = z if moments is None else standardise(z, moments)
    logits = discriminator(scene, torch.stack([contrasted, noise.to(contrasted.dtype)], dim=1))
    return logistic_contrast(logits[:, 0], logits[:, 1])


def avb_kl(
    discriminator: ContrastLogit,
    scene: Float[Tensor, "batch channel height width"],
    z: Float[Tensor, "batch latent"],
    moments: Gaussian | None,
) -> Float[Tensor, " batch"]:
    """KL(q(z | x) || N(0, I)) of each row, in nats, as T estimates it from one draw.

    The gradient goes to z through the input of T and through `kl_estimate`. It is that of the KL when
    T is optimal, because the expectation over q of a score is 0 (Mescheder et al., proposition 2).

    Args:
        discriminator: T, with its parameters frozen.
        scene: What the posterior saw.
        z: A draw from the implicit posterior of each row, with its graph.
        moments: As given to `avb_discriminator_loss`.
    """
    contrasted = z if moments is None else standardise(z, moments)
    return kl_estimate(discriminator(scene, contrasted[:, None])[:, 0], z, moments)


def kl_estimate(
    logit: Float[Tensor, " batch"], z: Float[Tensor, "batch latent"], moments: Gaussian | None
) -> Float[Tensor, " batch"]:
    """Log q(z|x) - log p(z) per row: T(x, z_hat) + log r(z|x) - log p(z), r the Gaussian of the moments.

    T says how far q is from r, which is little, instead of how far it is from the prior, which may be
    tens of nats and is more than any discriminator resolves. Without moments it is the logit.

    Source: Mescheder, Nowozin & Geiger 2017 (arXiv:1701.04722), adaptive contrast.
    """
    logit = at_least_float32(logit)
    if moments is None:
        return logit
    _, logvar = _constant(moments)
    residual = at_least_float32(z).square() - standardise(z, moments).square() - logvar
    return logit + 0.5 * residual.sum(dim=1)


def _constant(moments: Gaussian) -> tuple[Tensor, Tensor]:
    return at_least_float32(moments.mean.detach()), at_least_float32(moments.logvar.detach())
