"""A flow fitted to posteriors: exact inverse, exact Jacobian, a better density than one Gaussian; files."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models.gaussian import Gaussian
from pipeline.models.prior import LatentPrior, fit_prior, load_prior, save_prior, widths
from pipeline.models.prior_flow import CouplingFlow, fit_flow
from pipeline.models.prior_gaussian import FullGaussian, aggregate_prior


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_moons(count: int, seed: int) -> Tensor:
    """Two interleaved half circles."""
    angle = math.pi * torch.rand(count, generator=generator(seed))
    upper = (torch.arange(count) % 2 == 0).float()
    x = torch.where(upper > 0, angle.cos(), 1.0 - angle.cos())
    y = torch.where(upper > 0, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], dim=1) + 0.08 * torch.randn(count, 2, generator=generator(seed + 1))


def points(value: Tensor) -> Gaussian:
    return Gaussian(value, torch.full_like(value, -40.0))


def scrambled(width: int) -> CouplingFlow:
    """A flow whose couplings all do something, in float64."""
    factor = torch.randn(width, width, generator=generator(0))
    flow = CouplingFlow(FullGaussian(torch.ones(width), factor @ factor.T + torch.eye(width)))
    with torch.no_grad():
        for number, parameter in enumerate(flow.parameters()):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator(number)))
    return flow.double()


@pytest.mark.parametrize("width", [2, 5])
def test_the_inverse_is_exact_and_the_determinant_is_that_of_the_jacobian(width: int) -> None:
    flow = scrambled(width)
    value = torch.randn(6, width, generator=generator(1), dtype=torch.float64)
    noise, log_determinant = flow.to_noise(value)
    torch.testing.assert_close(flow.from_noise(noise), value, rtol=1e-7, atol=1e-7)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow.to_noise(x[None])[0][0], value[row])
        torch.testing.assert_close(jacobian.slogdet().logabsdet, log_determinant[row], rtol=1e-9, atol=1e-9)


def test_the_density_of_two_latents_integrates_to_one() -> None:
    flow = fit_flow(points(two_moons(400, 2)), seed=0, steps=60)
    axis = torch.linspace(-4.0, 5.0, 250)
    grid = torch.cartesian_prod(axis, axis)
    mass = flow.log_prob(grid).exp().double().sum() * (axis[1] - axis[0]).double() ** 2
    assert float(mass) == pytest.approx(1.0, abs=0.01)


def test_an_untrained_flow_is_its_gaussian() -> None:
    posterior = points(two_moons(100, 3))
    flow, gaussian = fit_flow(posterior, seed=0, steps=0), aggregate_prior(posterior)
    value = torch.randn(20, 2, generator=generator(4))
    torch.testing.assert_close(flow.log_prob(value), gaussian.log_prob(value))


def test_a_flow_explains_unseen_moons_better_than_one_gaussian() -> None:
    posterior, unseen = points(two_moons(1500, 5)), two_moons(500, 6)
    gaussian = aggregate_prior(posterior)
    flow = fit_flow(posterior, seed=0, steps=200)
    assert float(flow.log_prob(unseen).mean()) > float(gaussian.log_prob(unseen).mean()) + 0.5
    drawn = flow.draw(2000, generator(7))
    torch.testing.assert_close(drawn.mean(0), unseen.mean(0), atol=0.12, rtol=0)


def test_noise_is_not_learned_by_heart() -> None:
    posterior = points(torch.randn(60, 6, generator=generator(8)))
    unseen = torch.randn(2000, 6, generator=generator(9))
    flow, gaussian = fit_flow(posterior, seed=0, steps=150), aggregate_prior(posterior)
    assert float(flow.log_prob(unseen).mean()) > float(gaussian.log_prob(unseen).mean()) - 0.3


def test_the_same_seed_gives_the_same_flow_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (fit_flow(points(two_moons(60, 10)), seed=3, steps=60) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_one_latent_or_few_posteriors_still_give_a_prior(count: int) -> None:
    flow = fit_flow(points(torch.randn(count, 1, generator=generator(11))), seed=0, steps=5)
    assert bool(flow.draw(4, generator(0)).isfinite().all())
    assert bool(
        fit_flow(points(two_moons(count, 12)), seed=0, steps=5).draw(4, generator(0)).isfinite().all()
    )


@pytest.mark.parametrize("kind", ["aggregate", "gmm", "flow"])
def test_a_saved_prior_is_the_same_again(kind: str, tmp_path: Path) -> None:
    shared, private = points(two_moons(150, 13)), points(torch.randn(150, 1, generator=generator(14)))
    present = torch.arange(150) % 3 > 0
    prior = fit_prior(kind, shared, {"rgb": private}, {"rgb": present}, seed=0)  # type: ignore[arg-type]
    save_prior(tmp_path / "prior.safetensors", prior)
    loaded = load_prior(tmp_path / "prior.safetensors")
    value = two_moons(20, 15)
    assert torch.equal(loaded.shared.log_prob(value), prior.shared.log_prob(value))
    for first, second in zip(_draws(loaded), _draws(prior), strict=True):
        assert torch.equal(first, second)
    assert widths(loaded) == (2, {"rgb": 1})
    save_prior(tmp_path / "again.safetensors", loaded)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "prior.safetensors").read_bytes()


def test_a_private_latent_is_fitted_to_the_rows_that_have_its_modality() -> None:
    value = torch.randn(100, 2, generator=generator(16))
    private = torch.where(torch.arange(100)[:, None] < 50, value + 7.0, torch.nan)
    fitted = fit_prior(
        "gmm", points(value), {"rgb": points(private)}, {"rgb": torch.arange(100) < 50}, seed=0
    )
    assert float(_draws(fitted)[1].mean()) == pytest.approx(7.0, abs=0.6)


@pytest.mark.parametrize("damage", ["missing", "cut", "alien"])
def test_a_damaged_prior_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    if damage != "missing":
        save_prior(path, LatentPrior(fit_flow(points(two_moons(40, 17)), 0, steps=1), {}))
        content = path.read_bytes()
        path.write_bytes(content[:200] if damage == "cut" else content.replace(b"inner", b"xnner"))
    with pytest.raises(InputError, match=r"no latent prior can be read from it"):
        load_prior(path)


def _draws(prior: LatentPrior) -> list[Tensor]:
    shared, private = prior.sample(6, generator(18))
    return [shared, *private.values()]
