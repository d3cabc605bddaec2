"""Held-out NLL under a fitted prior, against evidence in closed form; copying, against planted copies."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics.fewshot import Proposal, draw_proposal, memorisation, nll_under_prior
from pipeline.models.gaussian import Gaussian
from pipeline.models.prior import LatentPrior
from pipeline.models.prior_gaussian import FullGaussian
from pipeline.models.variables import Posterior

NOISE = 0.5
ROWS = 6


def linear_gaussian(
    prior: FullGaussian, proposal_scale: float, draws: int
) -> tuple[dict[str, torch.Tensor], Proposal, torch.Tensor]:
    """x = z + noise, two dimensions: terms, draws from the exact posterior (widened), and -log p(x)."""
    generator = torch.Generator().manual_seed(0)
    x = 2.0 * torch.randn(ROWS, 2, generator=generator)
    variance = prior.covariance.diagonal()
    precision = 1.0 / variance + 1.0 / NOISE**2
    mean = (prior.mean / variance + x / NOISE**2) / precision
    logvar = (proposal_scale**2 / precision).log().expand(ROWS, 2)
    proposal = draw_proposal(Posterior(Gaussian(mean, logvar.contiguous()), {}), {}, draws, seed=1)
    error = (x - proposal.shared).square().sum(dim=2) / (2 * NOISE**2)
    terms = {"rgb": error + math.log(2 * math.pi * NOISE**2)}
    evidence = FullGaussian(prior.mean, prior.covariance + NOISE**2 * torch.eye(2))
    return terms, proposal, -evidence.log_prob(x)


def diagonal_prior() -> FullGaussian:
    return FullGaussian(torch.tensor([0.7, -0.2]), torch.diag(torch.tensor([0.5, 2.0])))


def test_one_draw_from_the_exact_posterior_gives_the_evidence() -> None:
    prior = diagonal_prior()
    terms, proposal, expected = linear_gaussian(prior, 1.0, draws=1)
    nll = nll_under_prior(terms, proposal, LatentPrior(prior, {}))
    torch.testing.assert_close(nll.float(), expected, atol=1e-4, rtol=1e-5)


def test_many_draws_from_another_density_come_to_the_evidence_from_above() -> None:
    prior = diagonal_prior()
    terms, proposal, expected = linear_gaussian(prior, 1.6, draws=4000)
    nll = nll_under_prior(terms, proposal, LatentPrior(prior, {}))
    torch.testing.assert_close(nll.float(), expected, atol=0.06, rtol=0)
    few = nll_under_prior(
        {"rgb": terms["rgb"][:1]},
        Proposal(proposal.shared[:1], {}, proposal.log_density[:1], {}),
        LatentPrior(prior, {}),
    )
    assert few.mean() > nll.mean()


def test_correlation_in_the_prior_counts() -> None:
    prior = FullGaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, 2, generator=generator)
    wide = Posterior(Gaussian(0.8 * x, torch.full((ROWS, 2), math.log(0.4))), {})
    proposal = draw_proposal(wide, {}, 20_000, seed=3)
    terms = {
        "rgb": (x - proposal.shared).square().sum(dim=2) / (2 * NOISE**2) + math.log(2 * math.pi * NOISE**2)
    }
    expected = -FullGaussian(prior.mean, prior.covariance + NOISE**2 * torch.eye(2)).log_prob(x)
    nll = nll_under_prior(terms, proposal, LatentPrior(prior, {}))
    torch.testing.assert_close(nll.float(), expected, atol=0.05, rtol=0)


def test_a_private_latent_of_an_absent_modality_costs_nothing() -> None:
    prior = diagonal_prior()
    shared = Gaussian(torch.zeros(ROWS, 2), torch.zeros(ROWS, 2))
    private = {"rgb": Gaussian(torch.ones(ROWS, 3), torch.zeros(ROWS, 3))}
    present = {"rgb": torch.arange(ROWS) % 2 == 0}
    with_private = draw_proposal(Posterior(shared, private), present, 3, seed=4)
    plain = draw_proposal(Posterior(shared, {}), {}, 3, seed=4)
    assert torch.equal(with_private.shared, plain.shared)
    terms = {"depth": plain.shared.square().sum(dim=2)}
    far = FullGaussian(torch.full((3,), 5.0), torch.eye(3))
    without = nll_under_prior(terms, plain, LatentPrior(prior, {}))
    nll = nll_under_prior(terms, with_private, LatentPrior(prior, {"rgb": far}))
    assert torch.equal(nll[1::2], without[1::2])
    assert bool((nll[::2] > without[::2] + 1.0).all())


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 20)).astype(np.float32)


def test_over_supports_fresh_samples_are_as_near_to_unseen_scenes() -> None:
    samples, unseen = features(200, 0), features(100, 1)
    copied = [memorisation(samples, features(5, seed), unseen) for seed in range(2, 42)]
    assert np.mean([part.share for part in copied]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([part.distance_ratio for part in copied]) == pytest.approx(1.0, abs=0.02)


def test_copies_of_the_support_are_found() -> None:
    support = features(5, 1)
    copied = memorisation(np.repeat(support, 4, axis=0), support, features(50, 2))
    assert copied.share == 1.0
    assert copied.distance_ratio == pytest.approx(0.0, abs=1e-3)


def test_every_copy_among_the_samples_raises_the_share() -> None:
    support, fresh, unseen = features(5, 1), features(80, 3), features(500, 2)
    alone = memorisation(fresh, support, unseen).share
    half = memorisation(np.concatenate([fresh, np.repeat(support, 16, axis=0)]), support, unseen).share
    assert half == pytest.approx((alone + 1.0) / 2.0)


def test_too_few_unseen_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least as many unseen scenes as support: 3 < 5"):
        memorisation(features(4, 0), features(5, 1), features(3, 2))
