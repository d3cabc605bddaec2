"""A mixture fitted to posteriors: against torch's density, planted components, and one Gaussian."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.models.gaussian import Gaussian
from pipeline.models.prior_gaussian import aggregate_prior
from pipeline.models.prior_mixture import (
    GaussianMixture,
    _expected_scores,
    _maximise,
    fit_mixture,
    mixture_of,
)

CERTAIN = -40.0


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def three_modes(count: int, seed: int) -> Tensor:
    centres = torch.tensor([[4.0, 0.0], [-4.0, 1.0], [0.0, -5.0]])
    rows = centres[torch.arange(count) % 3]
    return rows + 0.5 * torch.randn(count, 2, generator=generator(seed))


def points(value: Tensor) -> Gaussian:
    return Gaussian(value, torch.full_like(value, CERTAIN))


def test_log_density_agrees_with_torch_distributions() -> None:
    factor = torch.randn(3, 4, 4, generator=generator(0))
    covariance = factor @ factor.transpose(1, 2) + torch.eye(4)
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.2, 0.3]), torch.randn(3, 4, generator=generator(1)), covariance
    )
    value = torch.randn(9, 4, generator=generator(2))
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.MultivariateNormal(mixture.means, covariance),
    ).log_prob(value)
    torch.testing.assert_close(mixture.log_prob(value), expected)


def test_draws_have_the_moments_of_the_mixture() -> None:
    mixture = GaussianMixture(
        torch.tensor([0.25, 0.75]),
        torch.tensor([[2.0, 0.0], [-1.0, 1.0]]),
        torch.stack([torch.tensor([[1.0, 0.6], [0.6, 0.5]]), 0.2 * torch.eye(2)]),
    )
    drawn = mixture.draw(100_000, generator(3))
    mean = mixture.weights @ mixture.means
    offset = mixture.means - mean
    spread = mixture.covariances + offset[:, :, None] * offset[:, None, :]
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(
        torch.cov(drawn.T), (mixture.weights[:, None, None] * spread).sum(0), atol=0.03, rtol=0.02
    )


def test_responsibilities_weigh_what_a_component_expects_of_each_posterior() -> None:
    """The inverse of [[2, 1], [1, 2]] is [[2, -1], [-1, 2]] / 3, its determinant 3."""
    mixture = GaussianMixture(
        torch.tensor([0.25, 0.75]),
        torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
        torch.stack([torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.diag(torch.tensor([4.0, 1.0]))]),
    )
    mean, variance = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.5, 1.5], [3.0, 0.0]])
    correlated = math.log(0.25) - math.log(2 * math.pi) - 0.5 * math.log(3.0)
    diagonal = math.log(0.75) - math.log(2 * math.pi) - 0.5 * math.log(4.0)
    expected = [
        [correlated - 0.5 * (2 / 3 + 2 * 2 / 3), diagonal - 0.5 * (1.0 + 0.5 / 4 + 1.5)],
        [correlated - 0.5 * (0.0 + 3 * 2 / 3), diagonal - 0.5 * (1 / 4 + 3.0 / 4 + 0.0)],
    ]
    torch.testing.assert_close(_expected_scores(mixture, mean, variance), torch.tensor(expected))


def test_moments_of_components_follow_from_their_shares() -> None:
    """Two and a half posteriors of one component and half a one of the other, in one dimension."""
    mean, variance = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[1.0], [1.0], [2.0]])
    share = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    fitted = _maximise(mean, variance, share, torch.tensor([1.0]), torch.tensor([[3.0]]))
    first, second = 5.01 / 2.51, 1.01 / 0.51
    spread = first**2 + 0.5 * (2 - first) ** 2 + (4 - first) ** 2 + 1.0 + 0.5 + 2.0
    torch.testing.assert_close(fitted.weights, torch.tensor([3.5 / 5, 1.5 / 5]))
    torch.testing.assert_close(fitted.means, torch.tensor([[first], [second]]))
    expected = [[[(spread + 3.0) / 3.5]], [[(0.5 * (2 - second) ** 2 + 0.5 + 3.0) / 1.5]]]
    torch.testing.assert_close(fitted.covariances, torch.tensor(expected))


def test_each_component_is_regularised_by_its_part_of_the_whole() -> None:
    """Ten posteriors at -3 and ten at 3, in one dimension: C_0 / 2^2, worth one imagined sample."""
    value = torch.tensor([[-3.0], [3.0]]).repeat(10, 1)
    fitted, whole = mixture_of(points(value), 2, generator(19)), aggregate_prior(points(value))
    shift = 0.01 * 3.0 / 10.01  # towards the mean of all, worth a hundredth of a sample
    expected = (10 * shift**2 + whole.covariance / 4) / 11
    torch.testing.assert_close(fitted.means.sort(dim=0).values, torch.tensor([[shift - 3], [3 - shift]]))
    torch.testing.assert_close(fitted.covariances, expected.expand(2, 1, 1), rtol=1e-4, atol=0)


def test_a_fit_is_where_another_step_hardly_gains() -> None:
    posterior = Gaussian(three_modes(300, 20), torch.full((300, 2), -1.0))
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    fitted, whole = mixture_of(posterior, 4, generator(21)), aggregate_prior(posterior)
    exact = GaussianMixture(*(part.double() for part in (fitted.weights, fitted.means, fitted.covariances)))
    scores = _expected_scores(exact, mean, variance)
    prior = whole.covariance.double() / 4  # 4^(2 / 2) for 4 components in 2 dimensions
    again = _maximise(mean, variance, scores.softmax(dim=1), whole.mean.double(), prior)
    gain = _expected_scores(again, mean, variance).logsumexp(dim=1).mean() - scores.logsumexp(dim=1).mean()
    assert abs(gain.item()) < 1e-3


def test_one_component_is_the_aggregate_gaussian() -> None:
    posterior = Gaussian(three_modes(40, 4), torch.zeros(40, 2))
    one, whole = mixture_of(posterior, 1, generator(0)), aggregate_prior(posterior)
    assert torch.equal(one.means[0], whole.mean)
    assert torch.equal(one.covariances[0], whole.covariance)


def test_planted_components_are_found_with_their_weights_and_spread() -> None:
    value = torch.cat([three_modes(900, 5), torch.tensor([[4.0, 0.0]]).expand(300, 2)])
    value = value + 1e-3 * torch.randn(value.shape, generator=generator(6))
    fitted = mixture_of(points(three_modes(900, 5)), 3, generator(7))
    order = fitted.means[:, 0].argsort()
    expected = torch.tensor([[-4.0, 1.0], [0.0, -5.0], [4.0, 0.0]])
    torch.testing.assert_close(fitted.means[order], expected, atol=0.1, rtol=0)
    torch.testing.assert_close(fitted.weights, torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    torch.testing.assert_close(fitted.covariances, 0.25 * torch.eye(2).expand(3, 2, 2), atol=0.08, rtol=0)


def test_variances_of_posteriors_widen_the_components() -> None:
    value = three_modes(900, 8)
    narrow = mixture_of(points(value), 3, generator(9))
    wide = mixture_of(Gaussian(value, torch.full_like(value, math.log(0.5))), 3, generator(9))
    grown = (wide.covariances - narrow.covariances).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(grown, torch.full((3, 2), 0.5), atol=0.02, rtol=0)


def test_a_mixture_explains_unseen_modes_better_than_one_gaussian() -> None:
    posterior, unseen = points(three_modes(600, 10)), three_modes(300, 11)
    fitted = fit_mixture(posterior, generator(12))
    one = aggregate_prior(posterior)
    assert len(fitted.weights) >= 4
    truth = -math.log(3) - 2 * (0.5 * math.log(2 * math.pi) + math.log(0.5)) - 1.0  # of separate modes
    assert float(fitted.log_prob(unseen).mean()) > float(one.log_prob(unseen).mean()) + 1.0
    assert float(fitted.log_prob(unseen).mean()) == pytest.approx(truth, abs=0.15)


def test_one_gaussian_is_described_by_one() -> None:
    value = torch.randn(500, 3, generator=generator(13)) @ torch.randn(3, 3, generator=generator(14))
    assert len(fit_mixture(points(value), generator(15)).weights) == 1


def test_the_same_posteriors_give_the_same_mixture_and_few_or_none_a_gaussian() -> None:
    posterior = points(three_modes(200, 16))
    first, second = (fit_mixture(posterior, generator(17)) for _ in range(2))
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.covariances, second.covariances)
    for count in (0, 1, 4):
        few = fit_mixture(points(three_modes(count, 18)), generator(0))
        assert len(few.weights) == 1
        assert bool(few.draw(5, generator(1)).isfinite().all())
