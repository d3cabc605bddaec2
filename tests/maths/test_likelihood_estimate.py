import math

import pytest
import torch
from torch import Tensor

from pipeline.metrics.likelihood import importance_weighted_nll
from pipeline.models.fusion import mixture_of_experts
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Noise, Posterior

ROWS, SIGMA, PRIVATE_SIGMA = 5, 0.7, 0.4
LOADING = torch.tensor([1.3, -0.5, 0.8], dtype=torch.float64)
"""x = LOADING * z + SIGMA * noise, elementwise, so the exact posterior is diagonal."""


def linear_gaussian() -> tuple[Tensor, Tensor, Posterior, Tensor]:
    """Data y with private latents beside x, the exact posterior, and -log p(x, y)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)  # y = w + PRIVATE_SIGMA * noise
    variance = 1.0 / (1.0 + LOADING**2 / SIGMA**2)
    private_variance = 1.0 / (1.0 + 1.0 / PRIVATE_SIGMA**2)
    posterior = Posterior(
        Gaussian(variance * LOADING * x / SIGMA**2, variance.log().expand(ROWS, 3)),
        {
            "rgb": Gaussian(
                private_variance * y / PRIVATE_SIGMA**2, torch.full_like(y, math.log(private_variance))
            )
        },
    )
    evidence = density(x, torch.zeros_like(x), (LOADING**2 + SIGMA**2).sqrt())
    evidence = evidence + density(y, torch.zeros_like(y), torch.tensor(1.0 + PRIVATE_SIGMA**2).sqrt())
    return x, y, posterior, -evidence


def density(value: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, sigma).log_prob(value).sum(dim=1)


def estimate(posterior: Posterior, x: Tensor, y: Tensor, importance: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = [
        Noise(
            torch.randn(ROWS, 3, generator=generator, dtype=torch.float64),
            {"rgb": torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)},
        )
        for _ in range(importance)
    ]

    def log_likelihood(shared: Tensor, private: dict[str, Tensor]) -> Tensor:
        return density(x, LOADING * shared, torch.tensor(SIGMA)) + density(
            y, private["rgb"], torch.tensor(PRIVATE_SIGMA)
        )

    return importance_weighted_nll(posterior, log_likelihood, noise)


@pytest.mark.parametrize("importance", [1, 7])
def test_at_the_exact_posterior_every_draw_gives_the_evidence(importance: int) -> None:
    x, y, posterior, evidence = linear_gaussian()
    for seed in (0, 1):
        torch.testing.assert_close(estimate(posterior, x, y, importance, seed), evidence, rtol=0, atol=1e-5)


def test_with_another_proposal_the_bound_tightens_with_the_number_of_draws() -> None:
    x, y, posterior, evidence = linear_gaussian()
    wrong = Posterior(
        Gaussian(posterior.shared.mean + 0.3, posterior.shared.logvar + 0.5),
        {"rgb": Gaussian(posterior.private["rgb"].mean, posterior.private["rgb"].logvar + 0.7)},
    )
    bounds = [
        float(torch.stack([estimate(wrong, x, y, k, seed).mean() for seed in range(400 // k)]).mean())
        for k in (1, 4, 40)
    ]
    truth = float(evidence.mean())
    assert bounds[0] > bounds[1] + 0.05 > bounds[2] + 0.1 > truth
    kl = (
        wrong.shared.kl_to(posterior.shared).sum()
        + wrong.private["rgb"].kl_to(posterior.private["rgb"]).sum()
    )
    assert bounds[0] == pytest.approx(truth + float(kl) / ROWS, abs=0.1)  # K = 1 is the ELBO
    many = float(estimate(wrong, x, y, 4000, seed=9).mean())
    assert many == pytest.approx(truth, abs=0.02)


def test_draws_of_a_mixture_are_weighted_by_what_they_were_drawn_from() -> None:
    """Two modalities x_m = z + SIGMA * noise, whose experts are their exact posteriors, fused as a mixture.

    Draws from one expert under weights of the mixture settle elsewhere, at log E_q2[p(x, z) / q(z)].
    """
    x = torch.tensor([2.0, 0.5], dtype=torch.float64)
    shrink = 1 / (1 + SIGMA**2)
    mean = (shrink * x).reshape(2, 1, 1)
    logvar = torch.full_like(mean, math.log(SIGMA**2 * shrink))
    fused = mixture_of_experts(mean, logvar, torch.ones(2, 1, dtype=torch.bool))
    covariance = torch.eye(2, dtype=torch.float64) * SIGMA**2 + 1
    evidence = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(x)

    def log_likelihood(shared: Tensor, private: dict[str, Tensor]) -> Tensor:
        return density(x, shared, torch.tensor(SIGMA))

    generator = torch.Generator().manual_seed(0)
    noise = [Noise(torch.randn(1, 1, generator=generator, dtype=torch.float64)) for _ in range(4000)]
    found = importance_weighted_nll(Posterior(fused, {}), log_likelihood, noise)
    assert found.item() == pytest.approx(-evidence.item(), abs=0.02)

    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    each = Gaussian(mean[:, :, 0], logvar[:, :, 0]).log_prob(z.expand(2, -1))
    joint = density(x, z[:, None], torch.tensor(SIGMA)) + density(z[:, None], torch.zeros(1), torch.ones(1))
    weighted = (each[1] + joint - each.logsumexp(dim=0) + math.log(2)).exp()
    assert torch.trapezoid(weighted, z).log().item() == pytest.approx(evidence.item() - 0.2046, abs=1e-3)


def test_a_private_latent_that_is_not_seen_changes_nothing() -> None:
    x, y, posterior, _ = linear_gaussian()
    unseen = Posterior(posterior.shared, {"rgb": Gaussian(torch.zeros_like(y), torch.zeros_like(y))})
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    draws = [torch.randn(ROWS, 2, generator=generator, dtype=torch.float64) for _ in range(2)]

    def log_likelihood(shared: Tensor, private: dict[str, Tensor]) -> Tensor:
        return density(x, LOADING * shared, torch.tensor(SIGMA))

    first, second = (
        importance_weighted_nll(unseen, log_likelihood, [Noise(shared, {"rgb": d})]) for d in draws
    )
    torch.testing.assert_close(first, second)


def test_no_draw_is_refused() -> None:
    _, _, posterior, _ = linear_gaussian()
    with pytest.raises(ValueError, match="at least one draw"):
        importance_weighted_nll(posterior, lambda shared, private: shared.sum(dim=1), [])
