import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare

from pipeline.models.fusion import barycentre, mixture_of_experts, product_of_experts
from pipeline.models.gaussian import Gaussian
from pipeline.models.views import choose_views, draw_subset, subset_masks
from pipeline.objectives.likelihood import located_nll
from pipeline.training.randomness import uniform


def experts(count: int, rows: int, latent: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, latent, generator=generator), torch.randn(
        count, rows, latent, generator=generator
    )


def test_elbo_of_a_linear_gaussian_model_is_its_evidence() -> None:
    generator = torch.Generator().manual_seed(3)
    latent, rows, noise = 3, 5, 0.7
    loadings = [
        torch.linalg.qr(torch.randn(4, latent, generator=generator, dtype=torch.float64))[0]
        * torch.rand(latent, generator=generator, dtype=torch.float64).add(0.5)
        for _ in range(2)
    ]
    z = torch.randn(rows, latent, generator=generator, dtype=torch.float64)
    x = [z @ w.T + noise * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for w in loadings]

    precision = [w.square().sum(0) / noise**2 for w in loadings]
    mean = torch.stack([(xm @ w) / noise**2 / p for xm, w, p in zip(x, loadings, precision, strict=True)])
    logvar = torch.stack([-p.log().expand(rows, latent) for p in precision])
    posterior = product_of_experts(mean, logvar, torch.ones(2, rows, dtype=torch.bool), "full")

    scale, variance = torch.tensor(noise, dtype=torch.float64), posterior.logvar.exp()
    elbo = -posterior.kl_to_standard().sum(1)
    for xm, w in zip(x, loadings, strict=True):
        valid = torch.ones(rows, 1, 1, dtype=torch.bool)
        at_mean = located_nll(
            (posterior.mean @ w.T)[..., None, None], xm[..., None, None], valid, scale, "gaussian"
        )
        elbo -= at_mean + (variance * w.square().sum(0)).sum(1) / (2 * noise**2)
    both = torch.cat(loadings)
    covariance = both @ both.T + noise**2 * torch.eye(8, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(8, dtype=torch.float64), covariance)
    torch.testing.assert_close(elbo, evidence.log_prob(torch.cat(x, dim=1)), rtol=0, atol=1e-10)


def test_one_expert_without_prior_is_the_identity() -> None:
    mean, logvar = experts(1, 5, 4)
    fused = product_of_experts(mean, logvar, torch.ones(1, 5, dtype=torch.bool), "none")
    assert torch.equal(fused.mean, mean[0])
    assert torch.equal(fused.logvar, logvar[0])


@pytest.mark.parametrize(("prior_experts", "count"), [("none", 0), ("full", 1), ("all", 3)])
def test_precisions_add_up_with_the_prior_experts(prior_experts: str, count: int) -> None:
    mean, logvar = experts(3, 5, 4)
    fused = product_of_experts(mean, logvar, torch.ones(3, 5, dtype=torch.bool), prior_experts)
    precision = (-logvar).exp()
    total = precision.sum(0) + count
    torch.testing.assert_close(fused.logvar, -total.log())
    torch.testing.assert_close(fused.mean, (precision * mean).sum(0) / total)


def test_a_masked_expert_equals_a_removed_one() -> None:
    mean, logvar = experts(3, 6, 4)
    present = torch.ones(3, 6, dtype=torch.bool)
    present[1] = False
    mean[1], logvar[1] = math.nan, math.inf
    for prior_experts in ("none", "full", "all"):
        masked = product_of_experts(mean, logvar, present, prior_experts)
        removed = product_of_experts(mean[[0, 2]], logvar[[0, 2]], present[[0, 2]], prior_experts)
        assert torch.equal(masked.mean, removed.mean)
        assert torch.equal(masked.logvar, removed.logvar)


@pytest.mark.parametrize("prior_experts", ["none", "full", "all"])
def test_nobody_there_leaves_the_prior(prior_experts: str) -> None:
    mean, logvar = experts(2, 3, 4)
    fused = product_of_experts(mean, logvar, torch.zeros(2, 3, dtype=torch.bool), prior_experts)
    assert not fused.mean.any()
    assert not fused.logvar.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("prior_experts", ["none", "full", "all"])
def test_extreme_variances_stay_finite(dtype: torch.dtype, prior_experts: str) -> None:
    logvar = torch.tensor([[[-20.0, 20.0, 20.0]], [[20.0, 20.0, -20.0]]], dtype=dtype, requires_grad=True)
    mean = torch.tensor([[[3.0, 3.0, 3.0]], [[-5.0, -5.0, -5.0]]], dtype=dtype, requires_grad=True)
    fused = product_of_experts(mean, logvar, torch.ones(2, 1, dtype=torch.bool), prior_experts)
    (fused.mean.sum() + fused.logvar.sum()).backward()
    assert fused.mean.dtype == torch.float32
    torch.testing.assert_close(fused.mean[0, [0, 2]], torch.tensor([3.0, -5.0]), rtol=1e-3, atol=1e-3)
    assert fused.logvar.isfinite().all()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    assert logvar.grad is not None
    assert logvar.grad.isfinite().all()


def test_no_expert_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        product_of_experts(
            torch.zeros(0, 2, 3), torch.zeros(0, 2, 3), torch.zeros(0, 2, dtype=torch.bool), "full"
        )


def test_subset_masks_are_the_binary_digits() -> None:
    assert subset_masks(2).tolist() == [[True, False], [False, True], [True, True]]
    assert subset_masks(3).unique(dim=0).shape == (7, 3)
    assert subset_masks(3).any(dim=1).all()


@pytest.mark.parametrize("batch", [1, 2, 4, 13, 64])
@pytest.mark.parametrize("missing", [False, True])
def test_subsets_are_uniform_and_independent_of_the_row(batch: int, missing: bool) -> None:
    present = torch.ones(3, batch, dtype=torch.bool)
    if missing:
        present[1] = False
    steps = 1400 // batch
    drawn = torch.stack([
        draw_subset(present, uniform(0, step, torch.arange(batch), "subset", 1)[:, 0])
        for step in range(steps)
    ])
    code = (drawn * torch.tensor([1, 2, 4])[:, None]).sum(1)
    possible = [1, 4, 5] if missing else list(range(1, 8))
    assert set(code.unique().tolist()) == set(possible)
    counts = [(code == subset).sum().item() for subset in possible]
    assert chisquare(counts).pvalue > 1e-3
    for row in {0, batch - 1}:
        counts = [(code[:, row] == subset).sum().item() for subset in possible]
        assert chisquare(counts).pvalue > 1e-3


def test_a_row_with_nothing_draws_nothing_and_the_largest_uniform_draws_all() -> None:
    present = torch.tensor([[False, True], [False, True], [False, True]])
    drawn = draw_subset(present, torch.tensor([0.5, 1.0 - 2**-24]))
    assert drawn.tolist() == [[False, True], [False, True], [False, True]]


def test_only_mixtures_hide_what_is_present() -> None:
    present = torch.tensor([[True, True], [True, False], [True, True]])
    numbers = torch.zeros(2, 1)
    for fusion in ("poe", "mvtcae"):
        views = choose_views(fusion, "whole", present, numbers)
        assert torch.equal(views.given, present)
        assert torch.equal(views.targets, present)
    for fusion in ("mopoe", "moe", "joint"):
        views = choose_views(fusion, "drawn", present, numbers)
        assert views.given[0].all()
        assert not views.given[1:].any()
        assert torch.equal(views.targets, present)


AVERAGES = [barycentre, mixture_of_experts]


def test_barycentre_averages_means_and_standard_deviations() -> None:
    mean, logvar = (part.double() for part in experts(3, 5, 4))
    fused = barycentre(mean, logvar, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(fused.mean, mean.mean(0), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close((0.5 * fused.logvar).exp(), (0.5 * logvar).exp().mean(0), rtol=1e-14, atol=0)


def test_barycentre_is_nearest_to_all_experts() -> None:
    mean, logvar = (part.double() for part in experts(3, 1, 1))
    scale = (0.5 * logvar).exp()

    def cost(at: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        """Sum of squared Wasserstein-2 distances between Gaussians on a line."""
        return ((mean - at).square() + (scale - spread).square()).sum()

    fused = barycentre(mean, logvar, torch.ones(3, 1, dtype=torch.bool))
    best = cost(fused.mean, (0.5 * fused.logvar).exp())
    for shift, stretch in ((0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)):
        assert cost(fused.mean + shift, (0.5 * fused.logvar).exp() + stretch) > best


def test_mixture_has_the_moments_of_draws_from_its_experts() -> None:
    mean, logvar = (part.double() for part in experts(3, 1, 4))
    present = torch.tensor([[True], [False], [True]])
    fused = mixture_of_experts(mean, logvar, present)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 100_000, 4, generator=generator, dtype=torch.float64)
    drawn = (mean[[0, 2]] + (0.5 * logvar[[0, 2]]).exp() * noise).flatten(0, 1)
    torch.testing.assert_close(fused.mean[0], drawn.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(fused.logvar[0].exp(), drawn.var(0), rtol=0.03, atol=0)


@pytest.mark.parametrize("fuse", AVERAGES)
def test_identical_experts_average_to_themselves(fuse: Callable[..., Gaussian]) -> None:
    mean, logvar = (part.double().expand(3, -1, -1) for part in experts(1, 5, 4))
    fused = fuse(mean, logvar, torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(fused.mean, mean[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(fused.logvar, logvar[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("fuse", AVERAGES)
def test_averages_ignore_order_and_what_an_absent_expert_holds(fuse: Callable[..., Gaussian]) -> None:
    mean, logvar = experts(3, 4, 4)
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1] = False
    present[:, 3] = False
    removed = fuse(mean[[2, 0]], logvar[[2, 0]], present[[2, 0]])
    assert not removed.mean[3].any()
    assert not removed.logvar[3].any()
    gradients = []
    for filler in (0.0, math.nan, math.inf, -math.inf):
        filled = [torch.where(present[..., None], part, filler).requires_grad_() for part in (mean, logvar)]
        fused = fuse(*filled, present)
        torch.testing.assert_close(fused.mean, removed.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(fused.logvar, removed.logvar, rtol=1e-6, atol=1e-6)
        gradients.append(torch.autograd.grad(fused.mean.sum() + fused.logvar.sum(), filled))
        assert all(not part[~present].any() for part in gradients[-1])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("fuse", AVERAGES)
def test_averages_of_extreme_variances_stay_finite_in_half_precision(fuse: Callable[..., Gaussian]) -> None:
    for values in ([-20.0, -20.0], [20.0, 20.0], [-20.0, 20.0]):
        logvar = torch.tensor(values, dtype=torch.bfloat16)[:, None, None].requires_grad_()
        mean = torch.tensor([3.0, -5.0], dtype=torch.bfloat16)[:, None, None].requires_grad_()
        fused = fuse(mean, logvar, torch.ones(2, 1, dtype=torch.bool))
        assert fused.mean.dtype == fused.logvar.dtype == torch.float32
        assert fused.mean.item() == -1.0
        found = torch.autograd.grad(fused.mean.sum() + fused.logvar.sum(), [mean, logvar])
        assert all(part.isfinite().all() for part in (fused.logvar, *found))
    same = torch.full((2, 1, 1), -20.0, dtype=torch.bfloat16)
    assert fuse(torch.zeros_like(same), same, torch.ones(2, 1, dtype=torch.bool)).logvar.item() == -20.0


@pytest.mark.parametrize(("fuse", "roots"), [(mixture_of_experts, 1), (barycentre, 2)])
def test_experts_surer_than_float32_can_say_average_to_its_smallest_number(
    fuse: Callable[..., Gaussian], roots: int
) -> None:
    """exp(-300) is 0: the variance, or the standard deviation, is taken to be 2^-126."""
    logvar = torch.full((2, 1, 1), -300.0 * roots, requires_grad=True)
    mean = torch.full((2, 1, 1), 1.5, requires_grad=True)
    fused = fuse(mean, logvar, torch.ones(2, 1, dtype=torch.bool))
    assert fused.mean.item() == 1.5
    assert fused.logvar.item() == pytest.approx(-126 * math.log(2) * roots)
    found = torch.autograd.grad(fused.mean.sum() + fused.logvar.sum(), [mean, logvar])
    assert all(part.isfinite().all() for part in found)
