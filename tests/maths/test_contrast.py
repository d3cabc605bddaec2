"""Adversarial variational Bayes: what T must say, what it says when it is optimal, and what it learns."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.gaussian import Gaussian
from pipeline.models.latent_discriminator import ContrastDiscriminator, scene_channels, seen_scene
from pipeline.objectives.latent_adversary import avb_discriminator_loss, avb_kl, kl_estimate, standardise

POINTS = 8


@dataclass(frozen=True)
class Toy:
    """Eight scenes x with q(z | x) = N(mu_x, s^2 I), and moments that are wrong by 10 %."""

    mean: Tensor
    deviation: float
    repeats: int = 16

    @property
    def kl(self) -> float:
        per_latent = self.mean.square() + self.deviation**2 - 1 - 2 * math.log(self.deviation)
        return 0.5 * per_latent.sum(dim=1).mean().item()

    @property
    def moments(self) -> Gaussian:
        mean = 1.1 * self.mean.repeat(self.repeats, 1)
        return Gaussian(mean, torch.full_like(mean, 2 * math.log(1.1 * self.deviation)))

    def scenes(self) -> Tensor:
        return torch.eye(POINTS).view(POINTS, POINTS, 1, 1).expand(-1, -1, 4, 4).repeat(self.repeats, 1, 1, 1)

    def draw(self, generator: torch.Generator) -> Tensor:
        mean = self.mean.repeat(self.repeats, 1)
        return mean + self.deviation * torch.randn(mean.shape, generator=generator)


def toy(latent: int, deviation: float) -> Toy:
    return Toy(torch.randn(POINTS, latent, generator=torch.Generator().manual_seed(0)), deviation)


def learnt_kl(case: Toy, *, adaptive: bool, steps: int = 700) -> float:
    """The estimate of a T that was trained on the toy."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    discriminator = ContrastDiscriminator(POINTS, 4, case.mean.shape[1], 64)
    optimizer = torch.optim.Adam(discriminator.parameters())
    moments, scenes = case.moments if adaptive else None, case.scenes()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        z = case.draw(generator)
        noise = torch.randn(z.shape, generator=generator)
        optimizer.zero_grad()
        avb_discriminator_loss(discriminator, scenes, z, noise, moments).mean().backward()
        optimizer.step()
    with torch.no_grad():
        estimates = [avb_kl(discriminator, scenes, case.draw(generator), moments).mean() for _ in range(40)]
    return torch.stack(estimates).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(("latent", "deviation", "kl"), [(2, 0.5, 1.47), (8, 0.5, 6.92), (32, 0.1, 71.96)])
def test_with_adaptive_contrast_t_learns_the_kl(latent: int, deviation: float, kl: float) -> None:
    case = toy(latent, deviation)
    assert case.kl == pytest.approx(kl, abs=0.005)
    assert learnt_kl(case, adaptive=True) == pytest.approx(case.kl, rel=0.02)


@pytest.mark.slow
def test_without_adaptive_contrast_a_large_kl_is_out_of_reach() -> None:
    case = toy(8, 0.1)
    assert case.kl == pytest.approx(18.84, abs=0.005)
    assert learnt_kl(case, adaptive=True) == pytest.approx(case.kl, rel=0.02)
    assert learnt_kl(case, adaptive=False) < 0.6 * case.kl


@pytest.mark.slow
def test_a_t_that_does_not_see_the_scene_estimates_the_pooled_kl() -> None:
    """q(z | x) = N(x / 2, 3/4) with x from N(0, 1): pooled, N(0, 1) itself; given x, -ln(3/4) / 2 nats."""
    estimates = {}
    for sees in (True, False):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        discriminator = ContrastDiscriminator(1, 4, 1, 32)
        optimizer = torch.optim.Adam(discriminator.parameters())
        steps, tail = 800, []
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
            x, e, noise = torch.randn(3, 256, 1, generator=generator)
            scene = (x if sees else torch.zeros_like(x))[..., None, None].expand(-1, -1, 4, 4)
            z = 0.5 * x + 0.75**0.5 * e
            optimizer.zero_grad()
            avb_discriminator_loss(discriminator, scene, z, noise, None).mean().backward()
            optimizer.step()
            if step >= 600:
                with torch.no_grad():
                    tail.append(avb_kl(discriminator, scene, z, None).mean())
        estimates[sees] = torch.stack(tail).mean().item()
    assert estimates[True] == pytest.approx(-0.5 * math.log(0.75), rel=0.15)
    assert abs(estimates[False]) < 0.02


def optimal(case: Toy, mean: Tensor, deviation: Tensor) -> "OptimalT":
    return OptimalT(case, mean.detach(), deviation.detach())


class OptimalT(nn.Module):
    """log N(z_hat; what q(z | x) is when standardised) - log N(z_hat; 0, I)."""

    def __init__(self, case: Toy, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        moments = case.moments
        scale = (0.5 * moments.logvar).exp()
        rows = mean.repeat(case.repeats, 1)
        self.mean, self.deviation = (rows - moments.mean) / scale, deviation / scale

    def forward(self, scene: Tensor, latent: Tensor) -> Tensor:
        distance = (latent - self.mean[:, None]) / self.deviation[:, None]
        log_ratio = 0.5 * latent.square() - 0.5 * distance.square() - self.deviation[:, None].log()
        return log_ratio.sum(dim=2)


def test_with_the_optimal_t_the_estimate_is_the_drawn_kl_of_every_row() -> None:
    case = toy(3, 0.4)
    deviation = torch.full((3,), case.deviation)
    z = case.draw(torch.Generator().manual_seed(2))
    estimate = avb_kl(optimal(case, case.mean, deviation), case.scenes(), z, case.moments)
    q = Gaussian(case.mean.repeat(16, 1), torch.full_like(z, 2 * math.log(case.deviation)))
    prior = Gaussian(torch.zeros_like(z), torch.zeros_like(z))
    torch.testing.assert_close(estimate, (q.log_prob(z) - prior.log_prob(z)).sum(dim=1), atol=1e-4, rtol=1e-4)


def test_with_the_optimal_t_the_gradient_is_that_of_the_kl() -> None:
    case = Toy(toy(3, 0.4).mean, 0.4, repeats=20_000)
    mean = case.mean.clone().requires_grad_()
    log_deviation = torch.full((3,), math.log(case.deviation), requires_grad=True)
    noise = torch.randn(POINTS * case.repeats, 3, generator=torch.Generator().manual_seed(0))
    z = mean.repeat(case.repeats, 1) + log_deviation.exp() * noise
    t = optimal(case, mean, log_deviation.exp())
    scene = torch.zeros(len(z), 1, 1, 1)
    estimated = torch.autograd.grad(avb_kl(t, scene, z, case.moments).mean() * POINTS, (mean, log_deviation))
    # KL = sum (mu^2 + s^2 - 1) / 2 - ln s
    torch.testing.assert_close(estimated[0], mean.detach(), atol=0.05, rtol=0.0)
    expected = POINTS * (case.deviation**2 - 1) * torch.ones(3)
    torch.testing.assert_close(estimated[1], expected, atol=0.1, rtol=0.0)


def test_moments_are_constants() -> None:
    mean, logvar = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    z = torch.ones(2, 3, requires_grad=True)
    value = (
        kl_estimate(torch.zeros(2), z, Gaussian(mean, logvar)) + standardise(z, Gaussian(mean, logvar)).sum()
    )
    gradients = torch.autograd.grad(value.sum(), (mean, logvar, z), allow_unused=True)
    assert gradients[0] is None
    assert gradients[1] is None
    assert gradients[2] is not None


def test_without_moments_the_estimate_is_the_logit() -> None:
    logit = torch.tensor([1.5, -2.0])
    assert torch.equal(kl_estimate(logit, torch.ones(2, 3), None), logit)


def test_at_first_the_kl_is_that_of_the_gaussian_of_the_moments() -> None:
    case = toy(4, 0.5)
    z, moments = case.draw(torch.Generator().manual_seed(0)), case.moments
    estimate = avb_kl(ContrastDiscriminator(POINTS, 4, 4, 16), case.scenes(), z, moments)
    prior = Gaussian(torch.zeros_like(z), torch.zeros_like(z))
    torch.testing.assert_close(estimate, (moments.log_prob(z) - prior.log_prob(z)).sum(dim=1))


def test_ts_step_reaches_no_encoder_and_the_encoders_step_no_t() -> None:
    case = toy(4, 0.5)
    moments, scenes = case.moments, case.scenes()
    z = case.draw(torch.Generator().manual_seed(0)).requires_grad_()
    discriminator = ContrastDiscriminator(POINTS, 4, 4, 16)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.1)
    avb_discriminator_loss(discriminator, scenes, z, torch.ones_like(z), moments).sum().backward()
    assert z.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    discriminator.zero_grad()
    discriminator.requires_grad_(False)
    avb_kl(discriminator, scenes, z, moments).sum().backward()
    assert z.grad is not None
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    through_formula = z.detach() - standardise(z.detach(), moments) / (0.5 * moments.logvar).exp()
    assert (z.grad - through_formula).abs().max() > 1e-3  # the rest came through T


def test_draws_of_a_scene_are_judged_alone_and_rows_never_mix() -> None:
    torch.manual_seed(0)
    discriminator = ContrastDiscriminator(5, 32, 3, 16)
    nn.init.normal_(discriminator.head.weight)
    nn.init.normal_(discriminator.quadratic.weight)
    scene, latent = torch.randn(4, 5, 32, 32), torch.randn(4, 2, 3)
    logits = discriminator(scene, latent)
    torch.testing.assert_close(discriminator(scene, latent[:, 1:])[:, 0], logits[:, 1])
    torch.testing.assert_close(discriminator(scene[2:3], latent[2:3]), logits[2:3])
    assert (logits[:, 0] - discriminator(scene.flip(0), latent)[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [32, 48, 64, 100, 128])
def test_scenes_of_any_size_are_seen(size: int) -> None:
    assert ContrastDiscriminator(2, size, 3, 16)(
        torch.zeros(1, 2, size, size), torch.zeros(1, 1, 3)
    ).shape == (1, 1)


def test_what_a_posterior_did_not_see_cannot_leak_into_its_scene() -> None:
    images = {"rgb": torch.randn(3, 3, 8, 8), "depth": torch.randn(3, 2, 8, 8)}
    seen = torch.tensor([[True, False, True], [True, True, False]])
    scene = seen_scene(images, seen)
    assert scene.shape[1] == scene_channels({"rgb": 3, "depth": 2}) == 7
    images["rgb"][1], images["depth"][2] = torch.nan, torch.inf
    assert torch.equal(seen_scene(images, seen), scene)
    assert torch.equal(scene[:, 3].mean(dim=(1, 2)), torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(scene[:, 6].mean(dim=(1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(scene[0, :3], images["rgb"][0])
