import math
from typing import get_args

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.objective import ImageAdversary
from pipeline.objectives.adversarial import (
    LARGEST_ADAPTIVE_WEIGHT,
    Kind,
    Ramp,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    ramp,
)

KINDS: tuple[Kind, ...] = get_args(Kind)
ONE = torch.ones(1, dtype=torch.float64)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def quantiles(mean: float, count: int) -> Float[Tensor, "count 1"]:
    """N(mean, 1) as equally likely points."""
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    points: Tensor = torch.special.ndtri(middle)
    return points[:, None] + mean


@pytest.mark.parametrize("kind", ["nonsaturating", "relativistic"])
def test_the_optimal_logistic_discriminator_of_two_normals_is_linear_with_their_distance_as_slope(
    kind: Kind,
) -> None:
    a, b = 1.3, -0.4
    real, fake = quantiles(a, 300), quantiles(b, 300)
    if kind == "relativistic":  # every real with every fake
        real, fake = real.repeat_interleave(300, 0), fake.repeat(300, 1)

    def loss(coefficients: Tensor) -> Tensor:
        def logits(x: Tensor) -> Tensor:
            return coefficients[0] * x.square() + coefficients[1] * x + coefficients[2]

        rows = discriminator_loss(kind, logits(real), logits(fake), ONE)
        return rows.mean() + 1e-12 * coefficients[2].square()

    coefficients = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(8):  # Newton's method on a convex function
        gradient = torch.autograd.grad(loss(coefficients), coefficients)[0]
        curvature = torch.autograd.functional.hessian(loss, coefficients.detach())
        coefficients = (coefficients - torch.linalg.solve(curvature, gradient)).detach().requires_grad_()
    assert gradient.abs().max() < 1e-8
    square, slope, constant = coefficients.tolist()
    assert slope == pytest.approx(a - b, rel=2e-2)
    assert square == pytest.approx(0.0, abs=1e-2)
    if kind == "nonsaturating":
        assert constant == pytest.approx((b**2 - a**2) / 2, rel=2e-2)


def test_relativistic_losses_ignore_a_constant_and_are_log_2_for_a_constant_discriminator() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    fake = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    weights = torch.rand(7, dtype=torch.float64, generator=generator).softmax(0)
    for loss in (discriminator_loss, generator_loss):
        rows = loss("relativistic", real, fake, weights)
        torch.testing.assert_close(loss("relativistic", real + 3.0, fake + 3.0, weights), rows)
        same = loss("relativistic", torch.full_like(real, 5.0), torch.full_like(real, 5.0), weights)
        torch.testing.assert_close(same, torch.full_like(same, math.log(2.0)))


def test_losses_have_their_values_by_hand() -> None:
    real, fake = column(2.0, -0.5), column(-1.0, 0.5)
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    expected = {
        ("relativistic", "d"): [softplus(-3.0), softplus(1.0)],
        ("relativistic", "g"): [softplus(3.0), softplus(-1.0)],
        ("nonsaturating", "d"): [softplus(-2.0) + softplus(-1.0), softplus(0.5) + softplus(0.5)],
        ("nonsaturating", "g"): [softplus(1.0), softplus(-0.5)],
        ("hinge", "d"): [0.0, 1.5 + 1.5],
        ("hinge", "g"): [1.0, -0.5],
    }
    for kind in KINDS:
        torch.testing.assert_close(
            discriminator_loss(kind, real, fake, ONE), column(*expected[kind, "d"])[:, 0]
        )
        torch.testing.assert_close(generator_loss(kind, real, fake, ONE), column(*expected[kind, "g"])[:, 0])


def test_the_logits_of_a_row_are_averaged_by_their_weights() -> None:
    real, fake = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.5, 0.0, 3.0]])
    weights = torch.tensor([0.25, 0.25, 0.5])
    for kind in KINDS:
        one_by_one = [
            discriminator_loss(kind, real[:, k : k + 1], fake[:, k : k + 1], torch.ones(1)) for k in range(3)
        ]
        expected = sum(weight * one for weight, one in zip(weights, one_by_one, strict=True))
        torch.testing.assert_close(discriminator_loss(kind, real, fake, weights), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_gains_by_fakes_that_seem_real_and_the_discriminator_by_the_opposite(
    kind: Kind,
) -> None:
    real, fake = column(0.3), column(-0.2).requires_grad_()
    (gain,) = torch.autograd.grad(generator_loss(kind, real, fake, ONE).sum(), fake)
    assert gain.item() < 0
    (gain,) = torch.autograd.grad(discriminator_loss(kind, real, fake, ONE).sum(), fake)
    assert gain.item() > 0


def test_bfloat16_logits_are_judged_in_float32() -> None:
    real, fake = torch.tensor([[9.0]]).bfloat16(), torch.tensor([[1.0]]).bfloat16()
    row = discriminator_loss("relativistic", real, fake, torch.ones(1))
    assert row.dtype == torch.float32
    assert row.item() == pytest.approx(math.log1p(math.exp(-8.0)), rel=1e-6)


def test_the_penalty_of_a_linear_discriminator_is_the_square_of_its_slope() -> None:
    slope = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    scene = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scene.requires_grad_()
    penalty = gradient_penalty((scene @ slope)[:, None], scene, ONE)
    torch.testing.assert_close(penalty, torch.full((4,), 5.25, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(penalty.mean(), slope)
    torch.testing.assert_close(gradient, 2 * slope.detach())


def test_the_penalty_of_a_quadratic_discriminator_differs_from_row_to_row() -> None:
    scene = torch.tensor([[1.0, 2.0], [0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(scene.square().sum(dim=1, keepdim=True), scene, ONE)
    assert penalty.tolist() == [4 * 5.0, 4 * 9.0]


def test_judges_of_separate_parts_are_penalised_by_the_mean_of_their_squared_gradients() -> None:
    slopes = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    scene = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    penalty = gradient_penalty(scene * slopes, scene, weights)
    torch.testing.assert_close(penalty, torch.full((2,), 0.25 * 1 + 0.25 * 4 + 0.5 * 9, dtype=torch.float64))


def test_the_penalty_is_the_same_at_what_a_linear_layer_embeds() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(6, 4).double()
    scene = torch.randn(3, 5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    embedded = layer(scene)
    logits = embedded.sin().sum(dim=(1, 2))[:, None]
    direct = gradient_penalty(logits, scene, ONE)
    short = gradient_penalty(logits, embedded, ONE, layer.weight @ layer.weight.T)
    torch.testing.assert_close(short, direct)
    expected = torch.autograd.grad(direct.sum(), layer.weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(short.sum(), layer.weight)[0], expected)


def test_penalties_refuse_autocast() -> None:
    scene = torch.ones(1, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(AssertionError):
        gradient_penalty(scene.sum(dim=1, keepdim=True), scene, torch.ones(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_dirac_gan_converges_with_r1_and_not_without(kind: Kind) -> None:
    """Real data at 0, a fake at theta, D(x) = psi x: Mescheder et al. 2018, section 2.

    Without a penalty the eigenvalues at the solution are imaginary: hinge circles (and explicit steps
    drift outward), the logistic losses come nearer only as 1 / sqrt(time). With R1 they are -1/2.
    """

    def radius(r1: float) -> float:
        theta = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
        psi = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
        real = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        for _ in range(400):
            logits = real @ psi
            told = discriminator_loss(kind, logits, theta.detach() @ psi, ONE)
            told = (told + 0.5 * r1 * gradient_penalty(logits, real, ONE)).sum()
            pulled = generator_loss(kind, logits.detach(), theta @ psi.detach(), ONE).sum()
            (d,), (g,) = torch.autograd.grad(told, psi), torch.autograd.grad(pulled, theta)
            with torch.no_grad():
                psi -= 0.1 * d
                theta -= 0.1 * g
        return math.hypot(psi.item(), theta.item())

    assert radius(0.0) > (math.sqrt(2.0) if kind == "hinge" else 0.3)
    assert radius(2.0 if kind == "hinge" else 1.0) < 1e-6


def test_the_schedule_reconstructs_then_learns_to_tell_then_rises() -> None:
    section = ImageAdversary(kind="image", start_samples=100, warmup_samples=50, ramp_samples=200)
    expected = {
        1: Ramp(0.0, False),
        100: Ramp(0.0, False),
        101: Ramp(0.0, True),
        150: Ramp(0.0, True),
        250: Ramp(0.5, True),
        350: Ramp(1.0, True),
        9999: Ramp(1.0, True),
    }
    assert {seen: ramp(seen, section) for seen in expected} == expected
    at_once = ImageAdversary(kind="image", start_samples=0, warmup_samples=0, ramp_samples=0)
    assert ramp(1, at_once) == Ramp(1.0, True)


def test_the_adaptive_weight_evens_out_gradients_up_to_a_limit() -> None:
    def weight(reconstruction: float, adversarial: float) -> float:
        return adaptive_weight(torch.tensor(reconstruction), torch.tensor(adversarial), events=100).item()

    assert weight(3.0, 2.0) == pytest.approx(1.5, rel=1e-5)
    assert weight(300.0, 0.5) == pytest.approx(600.0, rel=1e-5)
    assert weight(3.0, 0.0) == 100 * LARGEST_ADAPTIVE_WEIGHT
    assert weight(0.0, 0.0) == 0.0
