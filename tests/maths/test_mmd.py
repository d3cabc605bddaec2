import math
from typing import Literal

import pytest
import torch

from pipeline.objectives.mmd import SCALES, mmd

DIMENSIONS = 2
SHIFT = 0.7


def draws(rows: int, count: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return shift + torch.randn(count, rows, DIMENSIONS, generator=generator, dtype=torch.float64)


def expected_rbf(width: float, shift: float) -> float:
    """E exp(-|x - y|^2 / c) of x - y from N(shift, 2 I): (1 + 4/c)^(-d/2) exp(-|shift|^2 / (c + 4))."""
    return (1 + 4 / width) ** (-DIMENSIONS / 2) * math.exp(-DIMENSIONS * shift**2 / (width + 4))


def expected_imq(width: float, shift: float) -> float:
    """c / (c + r^2) is the integral over t > 0 of exp(-t) exp(-t r^2 / c): Gaussians of every width."""
    t = torch.linspace(1e-6, 40, 400_001, dtype=torch.float64)
    scaled = 4 * t / width
    inner = (1 + scaled) ** (-DIMENSIONS / 2) * torch.exp(-DIMENSIONS * shift**2 * t / width / (1 + scaled))
    return torch.trapezoid(torch.exp(-t) * inner, t).item()


def closed_form(kernel: str, shift: float) -> tuple[float, float]:
    """The true MMD^2 between N(shift, I) and N(0, I), and E k(x, y) of two prior draws."""
    expected = {"rbf": expected_rbf, "imq": expected_imq}[kernel]
    widths = [2 * DIMENSIONS * scale for scale in SCALES]
    same, between = (sum(expected(width, by) for width in widths) for by in (0.0, shift))
    return 2 * (same - between), same


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_unbiased_statistic_has_the_mean_of_the_closed_form(kernel: Literal["imq", "rbf"]) -> None:
    codes, prior = draws(20, 400, SHIFT, seed=1), draws(24, 400, seed=2)
    values = torch.stack([mmd(c, p, kernel, "u") for c, p in zip(codes, prior, strict=True)])
    error = values.mean().item() - closed_form(kernel, SHIFT)[0]
    assert abs(error) < 4 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_under_the_null_u_has_mean_zero_and_is_sometimes_negative_and_v_has_its_bias(
    kernel: Literal["imq", "rbf"],
) -> None:
    rows, repeats = 16, 600
    pairs = list(zip(draws(rows, repeats, seed=3), draws(rows, repeats, seed=4), strict=True))
    unbiased = torch.stack([mmd(c, p, kernel, "u") for c, p in pairs])
    biased = torch.stack([mmd(c, p, kernel, "v") for c, p in pairs])
    standard_error = unbiased.std().item() / math.sqrt(repeats)
    assert abs(unbiased.mean().item()) < 4 * standard_error
    assert 0.2 < (unbiased < 0).double().mean().item() < 0.8
    bias = 2 / rows * (len(SCALES) - closed_form(kernel, 0.0)[1])
    assert biased.min() >= 0
    assert biased.mean().item() == pytest.approx(bias, abs=4 * standard_error)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_biased_statistic_of_a_sample_with_itself_is_zero(kernel: Literal["imq", "rbf"]) -> None:
    sample = draws(10, 1)[0]
    assert abs(mmd(sample, sample, kernel, "v").item()) < 1e-12


def test_its_gradient_moves_codes_to_the_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    location = torch.tensor([2.0, -1.0], requires_grad=True)
    log_scale = torch.tensor([1.0, -1.5], requires_grad=True)
    optimizer = torch.optim.Adam([location, log_scale], lr=0.05)
    for _ in range(300):
        noise, prior = torch.randn(2, 128, 2, generator=generator)
        optimizer.zero_grad()
        mmd(location + log_scale.exp() * noise, prior, "imq", "u").backward()
        optimizer.step()
    assert location.abs().max() < 0.15
    assert log_scale.abs().max() < 0.15


def test_equal_rows_have_a_finite_gradient() -> None:
    codes = torch.zeros(4, 3, requires_grad=True)
    value = mmd(codes, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "imq", "u")
    assert torch.autograd.grad(value, codes)[0].isfinite().all()


def test_autocast_does_not_reach_it() -> None:
    codes, prior = (part.float() for part in (draws(8, 1)[0], draws(8, 1, seed=1)[0]))
    with torch.autocast("cpu", torch.bfloat16):
        cast = mmd(codes, prior, "imq", "u")
    assert torch.equal(cast, mmd(codes, prior, "imq", "u"))


def test_the_unbiased_statistic_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows of each, not 1 and 4"):
        mmd(torch.zeros(1, 2), torch.zeros(4, 2), "imq", "u")
    assert mmd(torch.zeros(1, 2), torch.zeros(4, 2), "imq", "v") == 0
