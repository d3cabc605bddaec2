import math

import pytest
import torch
from torch import nn

from pipeline.models.implicit import SMALLEST_VARIANCE, ImplicitPosterior, even_normals


def posterior(bend: float = 0.0, seed: int = 0) -> ImplicitPosterior:
    """In float64, with its shapes bent by networks whose last layers have weights of about `bend`."""
    torch.manual_seed(seed)
    module = ImplicitPosterior(features=5, latent=3, sources=2, width=16).double()
    for part in module.bends:
        last = part[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=bend)
        nn.init.normal_(last.bias, std=bend)
    return module


def features(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def many_draws(module: ImplicitPosterior, row: torch.Tensor, count: int) -> torch.Tensor:
    noise = torch.randn(
        count, module.noise_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return module.sample(row.expand(count, -1), noise).detach()


def test_moments_are_those_of_many_draws() -> None:
    module, count = posterior(bend=1.0), 100_000
    moments = module.moments(features())
    for index, row in enumerate(features()):
        drawn = many_draws(module, row, count)
        deviation = drawn.std(dim=0)
        assert ((moments.mean[index] - drawn.mean(dim=0)).abs() / deviation).max() < 0.02
        assert (moments.logvar[index] - drawn.var(dim=0).log()).abs().max() < 0.05


def test_a_bent_posterior_is_no_gaussian() -> None:
    drawn = many_draws(posterior(bend=2.0), features(1)[0], 50_000)
    standard = (drawn - drawn.mean(dim=0)) / drawn.std(dim=0)
    excess = standard.pow(4).mean(dim=0) - 3, standard.pow(3).mean(dim=0)
    assert max(part.abs().max().item() for part in excess) > 10 * math.sqrt(24 / 50_000)


def test_it_starts_as_the_gaussian_of_its_coefficients() -> None:
    module = ImplicitPosterior(features=5, latent=3, sources=4).double()
    coefficients = module.coefficients(features()).view(4, 5, 3)
    moments = module.moments(features())
    torch.testing.assert_close(moments.mean, coefficients[:, 0].detach())
    torch.testing.assert_close(
        moments.logvar, coefficients[:, 1:].square().sum(dim=1).log().detach(), atol=1e-6, rtol=1e-6
    )
    noise = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_source = noise.view(4, 4, 3)
    torch.testing.assert_close(
        module.sample(features(), noise), coefficients[:, 0] + (coefficients[:, 1:] * by_source).sum(dim=1)
    )


def test_its_standard_deviations_start_near_one() -> None:
    module = ImplicitPosterior(features=5, latent=3)
    moments = module.moments(torch.zeros(1, 5))
    torch.testing.assert_close(moments.mean, torch.zeros(1, 3))
    torch.testing.assert_close(moments.logvar, torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_a_draw_carries_gradient_to_every_parameter_and_moments_to_none() -> None:
    module = posterior(bend=0.5)
    z, moments = module(features(), torch.ones(4, module.noise_size, dtype=torch.float64))
    assert not moments.mean.requires_grad
    assert not moments.logvar.requires_grad
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_rows_never_mix() -> None:
    module, noise = posterior(bend=1.0), torch.ones(4, 6, dtype=torch.float64)
    z, moments = module(features(), noise)
    alone, alone_moments = module(features()[2:3], noise[:1])
    torch.testing.assert_close(z[2:3], alone)
    torch.testing.assert_close(moments.mean[2:3], alone_moments.mean)
    torch.testing.assert_close(moments.logvar[2:3], alone_moments.logvar)


def test_a_posterior_that_shrinks_to_a_point_keeps_finite_moments() -> None:
    module = posterior()
    nn.init.zeros_(module.coefficients.weight)
    nn.init.zeros_(module.coefficients.bias)
    moments = module.moments(features())
    torch.testing.assert_close(
        moments.logvar, torch.full((4, 3), math.log(SMALLEST_VARIANCE), dtype=torch.float64)
    )


def test_the_probe_is_always_the_same_has_exact_moments_and_is_not_saved() -> None:
    first, again = posterior(seed=0), posterior(seed=1)
    assert torch.equal(first.probe, again.probe)
    assert "probe" not in first.state_dict()
    probe = even_normals(512, 8).double()
    assert probe.mean(dim=0).abs().max() < 1e-7
    assert (probe.var(dim=0, correction=0) - 1).abs().max() < 1e-6
    assert probe.pow(4).mean().item() == pytest.approx(3.0, rel=0.05)


def test_making_one_leaves_the_global_generator_as_a_model_without_a_probe_would() -> None:
    state = torch.random.get_rng_state()
    even_normals(64, 4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_under_autocast_moments_and_draws_are_float32() -> None:
    module = ImplicitPosterior(features=5, latent=3)
    with torch.autocast("cpu", torch.bfloat16):
        z, moments = module(features().float(), torch.ones(4, module.noise_size))
    assert z.dtype == moments.mean.dtype == moments.logvar.dtype == torch.float32
