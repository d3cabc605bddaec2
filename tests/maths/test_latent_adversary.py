import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from pipeline.config.model import Model
from pipeline.config.objective import AdversarialRegulariser, Objective
from pipeline.config.system import contradictions
from pipeline.models.code_prior import CodePrior, codes, prior_choices, prior_draws
from pipeline.models.latent_discriminator import LatentDiscriminator
from pipeline.models.prior import assumed_prior, load_prior, save_prior
from pipeline.objectives.latent_adversary import (
    aae_discriminator_loss,
    aae_encoder_loss,
    density_ratio_loss,
    logistic_contrast,
)


def uniforms(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normals(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(rows: int) -> torch.Tensor:
    """N(0, 1) at its quantiles: expectations without noise."""
    quantiles = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return torch.special.ndtri(quantiles)[:, None]


class Linear(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layer = nn.Linear(latent, 1, dtype=torch.float64)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z)[:, 0]


def test_a_discriminator_that_knows_nothing_costs_log_two() -> None:
    zero = torch.zeros(3)
    torch.testing.assert_close(logistic_contrast(zero, zero), torch.full((3,), math.log(2)))


def test_the_optimal_discriminator_between_two_gaussians_is_linear_with_slope_of_their_distance() -> None:
    discriminator, a, b = Linear(1), 1.3, -0.4
    optimizer = torch.optim.LBFGS(discriminator.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = density_ratio_loss(discriminator, spread(4000) + a, spread(4000) + b).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert discriminator.layer.weight.item() == pytest.approx(a - b, rel=0.01)
    assert discriminator.layer.bias.item() == pytest.approx((b**2 - a**2) / 2, rel=0.02)


def test_the_discriminators_step_reaches_no_encoder_and_the_encoders_step_no_discriminator() -> None:
    encoder, discriminator = nn.Linear(2, 3), LatentDiscriminator(3, 8)
    z = encoder(torch.ones(4, 2))
    aae_discriminator_loss(discriminator, z, torch.ones(4, 3)).sum().backward()
    assert encoder.weight.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    discriminator.zero_grad()
    discriminator.requires_grad_(False)
    aae_encoder_loss(discriminator, z).sum().backward()
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_the_two_steps_pull_in_opposite_directions() -> None:
    z = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    discriminator = Linear(2)
    with torch.no_grad():
        discriminator.layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    gradient = torch.autograd.grad(aae_encoder_loss(discriminator, z).sum(), z)[0]
    share = torch.sigmoid(-discriminator(z)).item()
    torch.testing.assert_close(gradient, -share * torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    aae_discriminator_loss(discriminator, z, torch.zeros(1, 2, dtype=torch.float64)).sum().backward()
    slope = torch.sigmoid(discriminator(z)).item() / 2
    torch.testing.assert_close(discriminator.layer.weight.grad, slope * z.detach())


def test_against_the_optimal_discriminator_codes_move_to_the_prior_and_rest_there() -> None:
    location = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        z = location + log_scale.exp() * spread(500)
        mean, deviation = location.detach(), log_scale.detach().exp()

        def optimal(value: torch.Tensor) -> torch.Tensor:
            log_ratio = -0.5 * value.square() + 0.5 * ((value - mean) / deviation).square() + deviation.log()
            return log_ratio[:, 0]

        return aae_encoder_loss(optimal, z).mean()

    optimizer = torch.optim.SGD([location, log_scale], lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert abs(location.item()) < 1e-3
    assert abs(log_scale.item()) < 1e-3
    assert loss().item() == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.slow
def test_trained_against_a_discriminator_the_codes_of_a_toy_reach_the_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    encoder, discriminator = nn.Linear(2, 2), LatentDiscriminator(2, 64)
    players = [
        (torch.optim.Adam(player.parameters(), betas=(0.5, 0.9)), rate)
        for player, rate in ((discriminator, 0.02), (encoder, 0.03))
    ]
    mixing, shift = torch.tensor([[1.5, 0.0], [1.0, 0.4]]), torch.tensor([2.0, -1.0])
    tail, steps = [], 1200
    for step in range(steps):
        for optimizer, rate in players:
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
        noise, draws = torch.randn(2, 128, 2, generator=generator)
        z = encoder(noise @ mixing.T + shift)
        aae_discriminator_loss(discriminator, z, draws).mean().backward()
        players[0][0].step()
        aae_encoder_loss(discriminator, z).mean().backward()
        players[1][0].step()
        if step >= 900:
            weight = encoder.weight.detach()
            tail.append((weight @ shift + encoder.bias.detach(), weight @ mixing @ mixing.T @ weight.T))
    mean, covariance = (torch.stack(part).mean(dim=0) for part in zip(*tail, strict=True))
    assert mean.abs().max() < 0.1
    assert (covariance - torch.eye(2)).abs().max() < 0.15


def test_the_normal_prior_is_the_noise_itself() -> None:
    noise = normals(5, 3)
    assert torch.equal(prior_draws("normal", 10, noise, uniforms(5, 0)), noise)


def test_a_ring_has_mean_zero_and_unit_covariance_and_neighbours_four_deviations_apart() -> None:
    rows, components = 60_000, 10
    drawn = prior_draws("mixture", components, normals(rows, 4), uniforms(rows, 2))
    assert drawn.mean(dim=0).abs().max() < 4 / math.sqrt(rows)
    assert (drawn.T.cov() - torch.eye(4)).abs().max() < 4 * math.sqrt(2 / rows)
    centres = [
        prior_draws("mixture", components, normals(1, 2) * 0, torch.tensor([[(c + 0.5) / components]]))
        for c in range(components)
    ]
    sigma = prior_draws("mixture", components, torch.eye(2).double()[:1], torch.zeros(1, 1)) - centres[0]
    distance = (centres[0] - centres[1]).norm()
    assert distance.item() == pytest.approx(4 * sigma[0, 0].item())
    assert torch.cat(centres).norm(dim=1).std() < 1e-12


def test_the_components_of_a_ring_are_equally_likely_and_pairs_independent() -> None:
    rows, components = 20_000, 5
    drawn = prior_draws("mixture", components, normals(rows, 4) * 0.0, uniforms(rows, 2))
    angle = torch.atan2(drawn[:, 1::2], drawn[:, ::2]) % (2 * math.pi)
    component = (angle / (2 * math.pi / components)).round().long() % components
    counts = torch.bincount(component[:, 0] * components + component[:, 1], minlength=components**2)
    expected = rows / components**2
    assert ((counts - expected) ** 2 / expected).sum() < 51.2  # chi-squared, 24 degrees, p = .001


def test_a_latent_without_a_partner_is_normal() -> None:
    noise = normals(6, 5)
    assert torch.equal(prior_draws("mixture", 4, noise, uniforms(6, 2))[:, 4], noise[:, 4])


def test_categories_are_one_hot_and_equally_likely_beside_a_normal_style() -> None:
    rows = 10_000
    noise = normals(rows, 7)
    drawn = prior_draws("categorical", 4, noise, uniforms(rows, 1))
    assert torch.equal(drawn[:, :4].sum(dim=1), torch.ones(rows, dtype=torch.float64))
    assert torch.equal(drawn[:, :4].square(), drawn[:, :4])
    assert torch.equal(drawn[:, 4:], noise[:, 4:])
    counts = drawn[:, :4].sum(dim=0)
    assert ((counts - rows / 4) ** 2 / (rows / 4)).sum() < 16.3  # chi-squared, 3 degrees, p = .001


@pytest.mark.parametrize("kind", ["mixture", "categorical"])
def test_scenes_can_be_drawn_from_what_training_held_codes_to(kind: CodePrior, tmp_path: Path) -> None:
    prior = assumed_prior(kind, 4, 7, {"rgb": 2})
    save_prior(tmp_path / "prior.safetensors", prior)
    loaded = load_prior(tmp_path / "prior.safetensors")
    for one in (prior, loaded):
        shared, private = one.sample(500, torch.Generator().manual_seed(3))
        again = torch.Generator().manual_seed(3)
        normal = torch.randn(500, 7, generator=again)
        uniform = torch.rand(500, prior_choices(kind, 7), generator=again)
        assert torch.equal(shared, prior_draws(kind, 4, normal, uniform))
        assert private["rgb"].shape == (500, 2)
    assert loaded.shared == prior.shared


def test_codes_of_categories_are_probabilities_and_the_rest_is_left_alone() -> None:
    features = normals(6, 7)
    categorical = codes("categorical", 4, features)
    torch.testing.assert_close(categorical[:, :4], features[:, :4].softmax(dim=1))
    assert torch.equal(categorical[:, 4:], features[:, 4:])
    assert torch.equal(codes("mixture", 4, features), features)


@pytest.mark.parametrize(("kind", "width"), [("normal", 1), ("mixture", 1), ("categorical", 2)])
def test_the_wrong_number_of_uniforms_is_refused(
    kind: Literal["normal", "mixture", "categorical"], width: int
) -> None:
    with pytest.raises(
        ValueError, match=f"takes {prior_choices(kind, 7)} uniform numbers per row, not {width}"
    ):
        prior_draws(kind, 4, normals(2, 7), uniforms(2, width))


def test_categories_without_room_for_a_style_are_refused() -> None:
    with pytest.raises(ValueError, match="4 categories and a style need more than 4 latents, not 4"):
        prior_draws("categorical", 4, normals(2, 4), uniforms(2, 1))
    with pytest.raises(ValueError, match="4 categories and a style need more than 4 latents, not 3"):
        codes("categorical", 4, normals(2, 3))


def test_a_config_of_categories_without_room_or_with_noise_is_refused_with_the_nearest_choice() -> None:
    objective = Objective(
        regulariser=AdversarialRegulariser(kind="adversarial", prior="categorical", components=10)
    )
    roomy = Model(latent=11, fusion="joint")
    assert not list(contradictions(roomy, objective))
    (small,) = contradictions(roomy.model_copy(update={"latent": 10}), objective)
    assert "choose components: 9 or fewer, or a latent of 11 or more" in small
    (noisy,) = contradictions(roomy.model_copy(update={"posterior": "gaussian"}), objective)
    assert "choose posterior: deterministic" in noisy
