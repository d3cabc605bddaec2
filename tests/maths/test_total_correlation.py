import math
from itertools import combinations

import pytest
import torch
from torch import nn

from pipeline.models.gaussian import Gaussian
from pipeline.models.latent_discriminator import LatentDiscriminator
from pipeline.objectives.latent_adversary import density_ratio_loss
from pipeline.objectives.total_correlation import (
    decompose,
    log_aggregate,
    log_densities,
    permute_latents,
    total_correlation_from_logit,
)

MIXING = torch.tensor([[1.2, 0.0, 0.0], [0.9, 0.7, 0.0], [0.0, -0.4, 0.8]], dtype=torch.float64)
SIGMA = 0.6


def linear_gaussian(samples: int, seed: int = 0) -> tuple[torch.Tensor, Gaussian]:
    """q(z | x) = N(A x, sigma^2), x ~ N(0, I): q(z) is N(0, A A^T + sigma^2 I).

    Larger samples have the moments of their distribution exactly, so that only estimators can err.
    """
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    if samples > 100:
        both = both - both.mean(dim=0)
        both = torch.linalg.solve_triangular(torch.linalg.cholesky(both.T.cov()), both.T, upper=False).T
    mean = both[:, :3] @ MIXING.T
    posterior = Gaussian(mean, torch.full_like(mean, 2 * math.log(SIGMA)))
    return posterior.sample(both[:, 3:]), posterior


def test_the_parts_of_a_linear_gaussian_model_are_those_of_its_closed_form() -> None:
    covariance = MIXING @ MIXING.T + SIGMA**2 * torch.eye(3, dtype=torch.float64)
    variance = covariance.diagonal()
    information = 0.5 * (covariance.logdet() - 3 * math.log(SIGMA**2))
    correlation = 0.5 * (variance.log().sum() - covariance.logdet())
    dimension = 0.5 * (variance - 1 - variance.log()).sum()
    parts = decompose(*linear_gaussian(1500), dataset_size=1500)
    assert parts.mutual_information.mean().item() == pytest.approx(information.item(), rel=0.04)
    assert parts.total_correlation.mean().item() == pytest.approx(correlation.item(), rel=0.04)
    assert parts.dimension_kl.mean().item() == pytest.approx(dimension.item(), abs=0.03)


def test_the_parts_of_every_row_add_up_to_its_drawn_kl() -> None:
    z, posterior = linear_gaussian(17)
    parts = decompose(z, posterior, dataset_size=1000)
    prior = Gaussian(torch.zeros_like(z), torch.zeros_like(z))
    torch.testing.assert_close(
        parts.mutual_information + parts.total_correlation + parts.dimension_kl,
        (posterior.log_prob(z) - prior.log_prob(z)).sum(dim=1),
    )


def test_the_estimate_of_the_aggregate_is_unbiased_over_batches() -> None:
    z, posterior = linear_gaussian(6)
    density = log_densities(z, posterior).sum(dim=2)
    truth = density.logsumexp(dim=1) - math.log(6)
    seen: list[list[float]] = [[] for _ in range(6)]
    for batch in combinations(range(6), 3):
        estimate = log_aggregate(density[list(batch)][:, list(batch)], dataset_size=6).exp()
        for row, value in zip(batch, estimate.tolist(), strict=True):
            seen[row].append(value)
    mean = torch.tensor(seen, dtype=torch.float64).mean(dim=1)
    torch.testing.assert_close(mean, truth.exp())
    whole = log_aggregate(density, dataset_size=6)
    torch.testing.assert_close(whole, truth)


def test_a_dataset_smaller_than_the_batch_counts_as_the_batch() -> None:
    z, posterior = linear_gaussian(8)
    density = log_densities(z, posterior)
    torch.testing.assert_close(log_aggregate(density, 3), log_aggregate(density, 8))


def test_the_parts_do_not_depend_on_the_order_of_rows() -> None:
    z, posterior = linear_gaussian(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    parts = decompose(z, posterior, 100)
    turned = decompose(z[order], Gaussian(posterior.mean[order], posterior.logvar[order]), 100)
    torch.testing.assert_close(turned.total_correlation, parts.total_correlation[order])


def test_one_latent_has_no_total_correlation() -> None:
    z, posterior = linear_gaussian(30)
    parts = decompose(z[:, :1], Gaussian(posterior.mean[:, :1], posterior.logvar[:, :1]), 500)
    assert parts.total_correlation.abs().max() < 1e-12


def test_the_gradient_of_total_correlation_pulls_correlated_latents_apart() -> None:
    z, posterior = linear_gaussian(400)
    coupling = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    mean = torch.stack([posterior.mean[:, 0], posterior.mean[:, 1] + coupling * posterior.mean[:, 0]], dim=1)
    drawn = mean + (z - posterior.mean)[:, :2]
    parts = decompose(drawn, Gaussian(mean, posterior.logvar[:, :2]), 400)
    slope = torch.autograd.grad(parts.total_correlation.mean(), coupling)[0]
    # d/dc at 0 of the total correlation of N(0, C(c)), the second row of A changed to a_2 + c a_1.
    covariance = MIXING[:2] @ MIXING[:2].T + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    change = torch.tensor([
        [0.0, MIXING[0] @ MIXING[0]],
        [MIXING[0] @ MIXING[0], 2 * MIXING[0] @ MIXING[1]],
    ]).double()
    expected = 0.5 * (change.diagonal() / covariance.diagonal()).sum()
    expected = expected - 0.5 * (torch.linalg.inv(covariance) @ change).trace()
    assert slope.item() == pytest.approx(expected.item(), rel=0.15)
    assert slope > 0


def test_half_precision_is_computed_in_float32() -> None:
    z, posterior = linear_gaussian(5)
    low = Gaussian(posterior.mean.bfloat16(), posterior.logvar.bfloat16())
    assert decompose(z.bfloat16(), low, 50).total_correlation.dtype == torch.float32


@pytest.mark.parametrize(("rows", "samples"), [(1, 100), (4, 0)])
def test_too_little_to_estimate_from_is_refused(rows: int, samples: int) -> None:
    z, posterior = linear_gaussian(rows)
    with pytest.raises(ValueError, match=f"{rows} rows of {samples} samples"):
        decompose(z, posterior, samples)


def test_permutation_keeps_every_latents_values_and_breaks_their_dependence() -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(4000, 1, generator=generator).repeat(1, 3)
    permuted = permute_latents(z, torch.rand(4000, 3, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(permuted.sort(dim=0).values, z.sort(dim=0).values)
    assert z.T.corrcoef().min() > 0.999
    assert (permuted.T.corrcoef() - torch.eye(3)).abs().max() < 4 / math.sqrt(4000)


def test_every_permutation_is_equally_likely() -> None:
    generator = torch.Generator().manual_seed(5)
    count, z = 6000, torch.arange(3.0)[:, None]
    orders = [permute_latents(z.repeat(1, 2), torch.rand(3, 2, generator=generator)) for _ in range(count)]
    pairs = torch.stack([order[:, 0] * 9 + order[:, 1] for order in orders])[:, 0]
    frequency = pairs.unique(return_counts=True)[1]
    assert len(frequency) == 9
    assert ((frequency - count / 9) ** 2 / (count / 9)).sum() < 26.1  # chi-squared, 8 degrees, p = .001


class Quadratic(nn.Module):
    """Logits quadratic in z: the log ratio of two Gaussians is one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 1, dtype=torch.float64)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        pairs = [z[:, i] * z[:, j] for i in range(3) for j in range(i, 3)]
        return self.layer(torch.stack(pairs, dim=1))[:, 0]


def test_the_optimal_discriminators_logit_is_the_total_correlation() -> None:
    covariance = MIXING @ MIXING.T + SIGMA**2 * torch.eye(3, dtype=torch.float64)
    truth = 0.5 * (covariance.diagonal().log().sum() - covariance.logdet())
    z, _ = linear_gaussian(20_000)
    uniform = torch.rand(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    permuted = permute_latents(z, uniform)
    discriminator = Quadratic()
    nn.init.zeros_(discriminator.layer.weight)
    nn.init.zeros_(discriminator.layer.bias)
    optimizer = torch.optim.LBFGS(discriminator.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = density_ratio_loss(discriminator, z, permuted).mean()
        loss.backward()
        return loss

    assert closure().item() == pytest.approx(math.log(2))
    optimizer.step(closure)
    with torch.no_grad():
        estimate = total_correlation_from_logit(discriminator(z)).mean()
    assert estimate.item() == pytest.approx(truth.item(), rel=0.05)


def test_the_latent_discriminator_never_mixes_rows() -> None:
    discriminator = LatentDiscriminator(3, 16)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(discriminator(z)[2:3], discriminator(z[2:3]))
