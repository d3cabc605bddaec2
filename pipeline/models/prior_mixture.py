"""A mixture of Gaussians fitted to posteriors, for latents that one Gaussian does not describe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.gaussian import Gaussian
from pipeline.models.prior_gaussian import FullGaussian, aggregate_prior

COMPONENTS = (1, 2, 4, 8, 16, 32)
"""Numbers that are tried, as long as each explains unseen posteriors better than the one before."""

POSTERIORS_PER_COMPONENT = 16
"""Fewest posteriors, on average, that a component is fitted to."""

HELD_OUT_EVERY = 5
HELD_OUT_DRAWS = 8

MAX_ITERATIONS = 100
TOLERANCE_NATS = 1e-3
MEAN_PSEUDO_COUNT = 0.01


@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weight_k N(mean_k, covariance_k), the same for every row."""

    weights: Float[Tensor, " component"]
    means: Float[Tensor, "component latent"]
    covariances: Float[Tensor, "component latent latent"]

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
        """So many independent draws: a component each, then a draw from it."""
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, self.means.shape[1], generator=generator)
        below = self.weights.double().cumsum(0)
        component = torch.searchsorted(below / below[-1], uniform, right=True)
        factors = torch.linalg.cholesky(self.covariances)
        offset: Tensor = (factors[component] @ noise[:, :, None])[:, :, 0]
        return self.means[component] + offset

    def log_prob(self, value: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Log density in nats."""
        parts = [
            weight.log() + FullGaussian(mean, covariance).log_prob(value)
            for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True)
        ]
        return torch.stack(parts).logsumexp(dim=0)


def fit_mixture(posterior: Gaussian, generator: torch.Generator) -> GaussianMixture:
    """Fit a mixture to the aggregate posterior, with as many components as unseen posteriors ask for.

    Every fifth posterior is kept aside; 1, 2, 4, ... components are tried until the log density of draws
    from those kept aside falls; that many are then fitted to all. With one component it is
    `aggregate_prior`, so the mixture is chosen only where it explains more than that.

    Args:
        posterior: One per sample.
        generator: Decides where the search for components begins.
    """
    rows = torch.arange(len(posterior.mean))
    aside = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    unseen, seen = _rows(posterior, aside), _rows(posterior, ~aside)
    best, best_nats = 1, -math.inf
    for components in COMPONENTS:
        if components > 1 and components * POSTERIORS_PER_COMPONENT > len(seen.mean):
            break
        nats = expected_log_density(mixture_of(seen, components, generator), unseen)
        if nats <= best_nats:
            break
        best, best_nats = components, nats
    return mixture_of(posterior, best, generator)


def mixture_of(posterior: Gaussian, components: int, generator: torch.Generator) -> GaussianMixture:
    """Fit so many components by variational expectation-maximisation.

    With posteriors N(m_i, V_i), V_i diagonal, responsibilities and then moments are, until the bound
    rises by less than 0.001 nats per sample,

        r_ik ~ weight_k N(m_i; mean_k, C_k) exp(-tr(C_k^-1 V_i) / 2)
        n_k = sum_i r_ik,   C_k = (sum_i r_ik [(m_i - mean_k)(m_i - mean_k)^T + V_i] + d C_0) / (n_k + d)

    where C_0 is the covariance of `aggregate_prior` over components^(2 / d), worth one imagined sample per
    dimension d, so a component of few samples keeps a full covariance. One component is `aggregate_prior`.

    Args:
        posterior: One per sample.
        components: How many.
        generator: Decides the starting means (k-means++).

    Source: Bishop 2006, "Pattern Recognition and Machine Learning", mixtures of Gaussians, with expected
        sufficient statistics under each posterior; Fraley & Raftery 2007, "Bayesian Regularization for
        Normal Mixture Estimation and Model-Based Clustering"; Arthur & Vassilvitskii 2007, k-means++.
    """
    whole = aggregate_prior(posterior)
    if components == 1:
        return GaussianMixture(torch.ones(1), whole.mean[None], whole.covariance[None])
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    width = mean.shape[1]
    prior = whole.covariance.double() / components ** (2.0 / width)
    share = _nearest_start(mean, whole, components, generator)
    bound = -math.inf
    for _ in range(MAX_ITERATIONS):
        mixture = _maximise(mean, variance, share, whole.mean.double(), prior)
        scores = _expected_scores(mixture, mean, variance)
        before, bound = bound, float(scores.logsumexp(dim=1).mean())
        share = scores.softmax(dim=1)
        if bound - before < TOLERANCE_NATS:
            break
    return GaussianMixture(
        mixture.weights.to(posterior.mean),
        mixture.means.to(posterior.mean),
        mixture.covariances.to(posterior.mean),
    )


def expected_log_density(density: GaussianMixture, posterior: Gaussian) -> float:
    """Mean log density in nats of draws from posteriors, the same draws for every density."""
    generator = torch.Generator().manual_seed(0)
    draws = [
        density.log_prob(posterior.sample(torch.randn(posterior.mean.shape, generator=generator)))
        for _ in range(HELD_OUT_DRAWS)
    ]
    return float(torch.stack(draws).double().mean())


def _maximise(
    mean: Float[Tensor, "sample latent"],
    variance: Float[Tensor, "sample latent"],
    share: Float[Tensor, "sample component"],
    centre: Float[Tensor, " latent"],
    prior: Float[Tensor, "latent latent"],
) -> GaussianMixture:
    count = share.sum(dim=0)
    components, width = share.shape[1], mean.shape[1]
    means = (share.T @ mean + MEAN_PSEUDO_COUNT * centre) / (count + MEAN_PSEUDO_COUNT)[:, None]
    spreads = []
    for k in range(components):
        offset = mean - means[k]
        own = (share[:, k, None] * offset).T @ offset + torch.diag(share[:, k] @ variance)
        spreads.append((own + width * prior) / (count[k] + width))
    weights = (count + 1.0) / (len(mean) + components)
    return GaussianMixture(weights, means, torch.stack(spreads))


def _expected_scores(
    mixture: GaussianMixture, mean: Float[Tensor, "sample latent"], variance: Float[Tensor, "sample latent"]
) -> Float[Tensor, "sample component"]:
    """Log weight + E_q[log N(z; component)] for every posterior and component."""
    scores = []
    for weight, centre, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        own = FullGaussian(centre, covariance).log_prob(mean)
        scores.append(weight.log() + own - 0.5 * variance @ inverse.diagonal())
    return torch.stack(scores, dim=1)


def _nearest_start(
    mean: Float[Tensor, "sample latent"], whole: FullGaussian, components: int, generator: torch.Generator
) -> Float[Tensor, "sample component"]:
    """Each sample given to the nearest of as many of them, drawn with odds of their squared distance."""
    factor = torch.linalg.cholesky(whole.covariance.double())
    white = torch.linalg.solve_triangular(factor, (mean - whole.mean).T, upper=False).T
    chosen = [int(torch.randint(len(mean), (1,), generator=generator))]
    nearest = (white - white[chosen[0]]).square().sum(dim=1)
    for _ in range(components - 1):
        odds = nearest.cumsum(0)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        chosen.append(min(int(torch.searchsorted(odds / odds[-1], uniform, right=True)), len(mean) - 1))
        nearest = torch.minimum(nearest, (white - white[chosen[-1]]).square().sum(dim=1))
    distances = (white[:, None] - white[chosen]).square().sum(dim=2)
    return torch.nn.functional.one_hot(distances.argmin(dim=1), components).double()


def _rows(posterior: Gaussian, chosen: Tensor) -> Gaussian:
    return Gaussian(posterior.mean[chosen], posterior.logvar[chosen])
