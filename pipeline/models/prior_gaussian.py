"""Gaussians that latents are drawn from: N(0, I), or fitted to posteriors, many or few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.gaussian import Gaussian


@dataclass(frozen=True)
class FullGaussian:
    """N(mean, covariance), the same for every row."""

    mean: Float[Tensor, " latent"]
    covariance: Float[Tensor, "latent latent"]

    def sample(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """A draw: mean + L noise, with L the Cholesky factor and noise from N(0, I)."""
        factor: Tensor = torch.linalg.cholesky(self.covariance)
        return self.mean + noise @ factor.T

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
        """So many independent draws."""
        return self.sample(torch.randn(count, len(self.mean), generator=generator))

    def log_prob(self, value: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Log density in nats."""
        factor: Tensor = torch.linalg.cholesky(self.covariance)
        white: Tensor = torch.linalg.solve_triangular(factor, (value - self.mean).T, upper=False)
        log_determinant = 2.0 * factor.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_determinant + len(self.mean) * math.log(2.0 * math.pi))


def standard_normal(latent: int) -> FullGaussian:
    """N(0, I)."""
    return FullGaussian(torch.zeros(latent), torch.eye(latent))


def pooled_moments(source: FullGaussian, posterior: Gaussian, pseudo_count: float) -> FullGaussian:
    """Fit a Gaussian to posteriors, as if `pseudo_count` earlier samples had the source's moments.

    With n posteriors N(m_i, diag(v_i)), their mean m and their spread S, which is the mean over i of
    (m_i - m)(m_i - m)^T + diag(v_i), and w = n / (n + pseudo_count):

        mean       = (1 - w) mean_0 + w m
        covariance = (1 - w) covariance_0 + w S + w (1 - w) (m - mean_0)(m - mean_0)^T

    This is the posterior mean under a normal-inverse-Wishart prior with kappa_0 = pseudo_count,
    nu_0 = pseudo_count + latent + 1 and Psi_0 = pseudo_count * covariance_0 (so that its own mean is
    the source), with each latent's sufficient statistics replaced by their expectation under its
    posterior: one M step of variational EM. No posteriors give the source back; many forget it.

    Args:
        source: What is believed before.
        posterior: One per sample.
        pseudo_count: How many samples the belief is worth.

    Returns:
        The fitted Gaussian; positive definite when the source is.

    Raises:
        ValueError: If pseudo_count is not positive.

    Source: Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution", the
        normal-inverse-Wishart prior, with the mean of the inverse Wishart for the covariance.
    """
    if pseudo_count <= 0:
        raise ValueError(f"pseudo_count must be positive, not {pseudo_count}")
    count = len(posterior.mean)
    if count == 0:
        return source
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    old_mean, old_covariance = source.mean.double(), source.covariance.double()
    weight = count / (count + pseudo_count)
    centred = mean - mean.mean(0)
    spread = centred.T @ centred / count + torch.diag(variance.mean(0))
    shift = mean.mean(0) - old_mean
    covariance = (
        (1 - weight) * old_covariance + weight * spread + weight * (1 - weight) * torch.outer(shift, shift)
    )
    return FullGaussian((old_mean + weight * shift).to(source.mean), covariance.to(source.covariance))


def aggregate_prior(posterior: Gaussian) -> FullGaussian:
    """The Gaussian with the moments of the aggregate posterior, mean over samples of q(z|x).

    Shrunk towards N(0, I) by one imagined sample per dimension, which matters only for small sets.

    Source: Hoffman & Johnson 2016, "ELBO surgery", for the aggregate posterior as the best prior.
    """
    latent = posterior.mean.shape[1]
    return pooled_moments(standard_normal(latent), posterior, float(latent))
