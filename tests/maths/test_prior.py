"""Priors fitted to posteriors: against quadrature, against the pooled sample, and in both limits."""

import math

import numpy as np
import pytest
import torch

from pipeline.models.gaussian import Gaussian
from pipeline.models.prior import refit_prior, standard_prior
from pipeline.models.prior_gaussian import FullGaussian, aggregate_prior, pooled_moments, standard_normal

CERTAIN = -40.0
"""Log variance of a posterior that is a point."""


def random_gaussian(latent: int, seed: int) -> FullGaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(latent, latent, generator=generator)
    return FullGaussian(torch.randn(latent, generator=generator), factor @ factor.T + torch.eye(latent))


def random_posterior(count: int, latent: int, seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, count, latent, generator=generator)
    return Gaussian(1.5 + draw[0], draw[1] - 1.0)


def test_log_density_agrees_with_torch_distributions() -> None:
    prior = random_gaussian(5, 0)
    value = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.distributions.MultivariateNormal(prior.mean, prior.covariance).log_prob(value)
    torch.testing.assert_close(prior.log_prob(value), expected)


def test_samples_have_the_moments_asked_for() -> None:
    prior = random_gaussian(3, 2)
    drawn = prior.sample(torch.randn(200_000, 3, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(drawn.mean(0), prior.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), prior.covariance, atol=0.08, rtol=0.02)


def test_one_dimension_agrees_with_quadrature_over_the_normal_inverse_gamma_posterior() -> None:
    source_mean, source_variance, pseudo_count = 0.4, 1.7, 6.0
    points = np.array([2.0, 2.9, 1.1])
    mu = np.linspace(-6.0, 8.0, 1401)[:, None]
    log_variance = np.linspace(-5.0, 9.0, 1401)[None, :]
    variance = np.exp(log_variance)
    # inverse Wishart in one dimension with nu = pseudo_count + 2, psi = pseudo_count * variance_0
    log_density = -(pseudo_count + 4.0) / 2.0 * log_variance - pseudo_count * source_variance / (
        2.0 * variance
    )
    log_density = log_density - 0.5 * log_variance - pseudo_count * (mu - source_mean) ** 2 / (2.0 * variance)
    for point in points:
        log_density = log_density - 0.5 * log_variance - (point - mu) ** 2 / (2.0 * variance)
    weight = np.exp(log_density - log_density.max()) * variance  # d(variance) = variance d(log variance)
    weight /= weight.sum()

    source = FullGaussian(torch.tensor([source_mean]), torch.tensor([[source_variance]]))
    posterior = Gaussian(torch.tensor(points, dtype=torch.float32)[:, None], torch.full((3, 1), CERTAIN))
    fitted = pooled_moments(source, posterior, pseudo_count)
    assert fitted.mean.item() == pytest.approx((weight * mu).sum(), rel=1e-4)
    assert fitted.covariance.item() == pytest.approx((weight * variance).sum(), rel=1e-3)


def test_a_pseudo_count_equals_that_many_samples_with_the_source_moments() -> None:
    generator = torch.Generator().manual_seed(4)
    earlier, later = torch.randn(8, 3, generator=generator), 2.0 + torch.randn(5, 3, generator=generator)
    source = FullGaussian(earlier.mean(0), torch.cov(earlier.T, correction=0))
    fitted = pooled_moments(source, Gaussian(later, torch.full((5, 3), CERTAIN)), 8.0)
    pooled = torch.cat([earlier, later])
    torch.testing.assert_close(fitted.mean, pooled.mean(0))
    torch.testing.assert_close(fitted.covariance, torch.cov(pooled.T, correction=0))


def test_variances_of_posteriors_add_to_the_spread() -> None:
    posterior = random_posterior(4, 2, 5)
    point = Gaussian(posterior.mean, torch.full_like(posterior.logvar, CERTAIN))
    wide, narrow = (pooled_moments(standard_normal(2), p, 3.0).covariance for p in (posterior, point))
    torch.testing.assert_close(wide - narrow, torch.diag(4.0 / 7.0 * posterior.logvar.exp().mean(0)))


def test_few_samples_keep_the_source_and_many_forget_it() -> None:
    source = random_gaussian(3, 6)
    posterior = random_posterior(5, 3, 7)
    stubborn = pooled_moments(source, posterior, 1e7)
    torch.testing.assert_close(stubborn.mean, source.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stubborn.covariance, source.covariance, atol=1e-4, rtol=1e-4)
    eager = pooled_moments(source, posterior, 1e-6)
    torch.testing.assert_close(eager.mean, posterior.mean.mean(0), atol=1e-4, rtol=1e-4)
    expected = torch.cov(posterior.mean.T, correction=0) + torch.diag(posterior.logvar.exp().mean(0))
    torch.testing.assert_close(eager.covariance, expected, atol=1e-4, rtol=1e-4)
    none = pooled_moments(source, random_posterior(0, 3, 0), 1.0)
    assert torch.equal(none.mean, source.mean)


def test_a_refit_prior_beats_the_source_and_the_bare_fit_on_unseen_samples() -> None:
    target = FullGaussian(torch.full((8,), 1.0), 0.3 * torch.eye(8))
    generator = torch.Generator().manual_seed(8)
    support, query = (target.sample(torch.randn(n, 8, generator=generator)) for n in (5, 2000))
    posterior = Gaussian(support, torch.full((5, 8), CERTAIN))
    source = standard_normal(8)
    scores = [
        pooled_moments(source, posterior, count).log_prob(query).mean().item() for count in (1e7, 3.0, 1e-2)
    ]
    assert scores[1] > scores[0] + 1.0
    assert scores[1] > scores[2] + 1.0


def test_the_aggregate_prior_finds_correlated_latents() -> None:
    truth = random_gaussian(3, 9)
    means = truth.sample(torch.randn(50_000, 3, generator=torch.Generator().manual_seed(10)))
    fitted = aggregate_prior(Gaussian(means, torch.full((50_000, 3), math.log(0.5))))
    torch.testing.assert_close(fitted.covariance, truth.covariance + 0.5 * torch.eye(3), atol=0.1, rtol=0.03)


def test_a_private_latent_learns_only_from_rows_that_have_its_modality() -> None:
    source = standard_prior(2, {"rgb": 3})
    private = random_posterior(4, 3, 11)
    present = torch.tensor([True, False, True, False])
    fitted = refit_prior(source, random_posterior(4, 2, 12), {"rgb": private}, {"rgb": present}, 2.0)
    alone = pooled_moments(
        source.private["rgb"], Gaussian(private.mean[present], private.logvar[present]), 2.0
    )
    assert torch.equal(fitted.private["rgb"].mean, alone.mean)
    assert torch.equal(fitted.private["rgb"].covariance, alone.covariance)


def test_a_pseudo_count_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="pseudo_count must be positive, not 0"):
        pooled_moments(standard_normal(2), random_posterior(3, 2, 0), 0.0)
