import math

import pytest
import torch
import torch.nn.functional as F
from by_hand import CLASSES, INFO, SIZE, make_batch, make_model, without

from pipeline.config.model import Model
from pipeline.config.objective import DepthLikelihood, Objective, RgbLikelihood
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.variables import Decoded
from pipeline.objectives.likelihood import categorical_nll, cross_entropy, located_nll, nll, reported_nll


def everywhere(rows: int, size: int = SIZE) -> torch.Tensor:
    return torch.ones(rows, size, size, dtype=torch.bool)


def test_zero_logits_cost_a_uniform_guess() -> None:
    labels = torch.randint(6, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    cost = categorical_nll(torch.zeros(2, 6, 64, 64), labels, everywhere(2, 64))
    torch.testing.assert_close(cost, torch.full((2,), 4096 * math.log(6)), rtol=1e-5, atol=0)


def test_segmentation_equals_summed_cross_entropy_and_ignores_255() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.randint(4, (2, 8, 8), generator=generator),
    )
    cost = categorical_nll(logits, labels, everywhere(2, 8))
    torch.testing.assert_close(cost.sum(), F.cross_entropy(logits, labels, reduction="sum"))
    valid = everywhere(2, 8)
    valid[:, :3] = False
    rest = categorical_nll(logits, torch.where(valid, labels, 255), valid)
    torch.testing.assert_close(rest.sum(), F.cross_entropy(logits[:, :, 3:], labels[:, 3:], reduction="sum"))


def test_a_learned_gaussian_scale_reaches_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    location, value = torch.zeros(3, 2, 8, 8), 0.3 * torch.randn(3, 2, 8, 8, generator=generator)
    log_scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = located_nll(location, value, everywhere(3, 8), log_scale.exp(), "gaussian").sum()
        total.backward()
        return total

    optimizer.step(loss)
    events, mse = value.numel(), value.square().mean().item()
    assert loss().item() == pytest.approx(events / 2 * (math.log(2 * math.pi * mse) + 1), rel=1e-5)


@pytest.mark.parametrize(
    ("density", "reference"),
    [("gaussian", torch.distributions.Normal), ("laplace", torch.distributions.Laplace)],
)
def test_densities_are_those_of_torch(
    density: str, reference: type[torch.distributions.Distribution]
) -> None:
    generator = torch.Generator().manual_seed(0)
    location, value = torch.randn(2, 4, 3, 8, 8, generator=generator)
    valid, scale = torch.rand(4, 8, 8, generator=generator) < 0.7, torch.tensor(0.4)
    expected = -reference(location, scale).log_prob(value) * valid[:, None]
    torch.testing.assert_close(
        located_nll(location, value, valid, scale, density), expected.flatten(1).sum(1)
    )


@pytest.mark.parametrize("density", ["gaussian", "laplace"])
@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_a_pixel_without_a_value_has_a_gradient_of_exactly_zero(density: str, filler: float) -> None:
    valid = everywhere(1, 4)
    valid[0, 0, 1] = False
    value = torch.where(valid[:, None], torch.ones(1, 3, 4, 4), filler)
    location, scale = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    cost = located_nll(location, value, valid, scale, density).sum()
    at_location, at_scale = torch.autograd.grad(cost, [location, scale])
    assert cost.isfinite()
    assert at_scale.isfinite()
    assert not at_location[0, :, 0, 1].any()
    assert (at_location != 0).sum() == 3 * 15


@pytest.mark.parametrize("space", ["metric", "log"])
@pytest.mark.parametrize("filler", [math.nan, math.inf, -7.0])
def test_invalid_depth_is_never_seen(space: str, filler: float) -> None:
    objective = Objective(depth=DepthLikelihood(space=space))
    model = make_model(objective=objective)
    batch = make_batch(2)
    hole = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    hole[0, :5], hole[1, :, 7] = True, True
    results = []
    for value in (0.0, filler):
        depth = torch.where(hole[:, None], value, batch.modalities["depth"].value)
        modality = ModalityBatch(depth, batch.modalities["depth"].present, ~hole)
        rows = Batch({**batch.modalities, "depth": modality}, batch.key, batch.index)
        decoded = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model.zero_grad()
        cost = nll(model, Decoded(None, decoded, None), rows, objective)["depth"]
        mean = model.encode(rows).mean
        (cost.sum() + mean.sum()).backward()
        gradients = [p.grad for p in model.encoders["depth"].parameters()]
        results.append([cost, mean, decoded.grad, *gradients])
        assert decoded.grad is not None
        assert not decoded.grad[hole[:, None]].any()
    assert all(torch.equal(clean, filled) for clean, filled in zip(*results, strict=True))


def test_all_invalid_equals_missing_and_the_zero_is_attached() -> None:
    objective, model, batch = Objective(), make_model(), make_batch(2)
    old = batch.modalities["depth"]
    blind = Batch(
        {**batch.modalities, "depth": ModalityBatch(old.value, old.present, torch.zeros_like(old.valid))},
        batch.key,
        batch.index,
    )
    decoded = torch.zeros(2, 1, SIZE, SIZE, requires_grad=True)
    for rows in (blind, without(batch, "depth", [0, 1], math.nan)):
        cost = nll(model, Decoded(None, decoded, None), rows, objective)["depth"]
        assert cost.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(cost.sum(), decoded)
        assert not gradient.any()


def test_reported_depth_is_a_density_over_metres() -> None:
    batch = make_batch(2)
    depth_m = batch.modalities["depth"].value
    for space, mean, std in (("metric", 3.0, 0.5), ("log", 1.1, 0.2)):
        objective = Objective(depth=DepthLikelihood(space=space, density="gaussian"))
        model = make_model(objective=objective)
        decoded = Decoded(None, torch.full((2, 1, SIZE, SIZE), 0.3), None)
        scale = model.scales()["depth"] * std
        normal = torch.distributions.Normal(0.3 * std + mean, scale)
        density = normal if space == "metric" else torch.distributions.LogNormal(0.3 * std + mean, scale)
        rows = reported_nll(model, nll(model, decoded, batch, objective), batch)
        torch.testing.assert_close(
            rows["depth"], -density.log_prob(depth_m).flatten(1).sum(1), rtol=1e-4, atol=0.1
        )


def test_reported_rgb_is_a_density_over_grey_values() -> None:
    batch, model, objective = make_batch(2), make_model(), Objective()
    decoded = Decoded(torch.full((2, 3, SIZE, SIZE), 0.4), None, None)
    density = torch.distributions.Normal(0.4 * 255, model.scales()["rgb"] * 255)
    rows = reported_nll(model, nll(model, decoded, batch, objective), batch)
    expected = -density.log_prob(batch.modalities["rgb"].value * 255).flatten(1).sum(1)
    torch.testing.assert_close(rows["rgb"], expected, rtol=1e-5, atol=1e-2)


def test_reported_rgb_is_the_probability_of_eight_bit_values() -> None:
    grey = torch.arange(256.0)
    cdf = torch.distributions.Normal(101.3, 2.55).cdf
    mass = cdf(grey + 0.5) - cdf(grey - 0.5)
    density = torch.distributions.Normal(101.3, 2.55).log_prob(grey)
    near = (grey - 101.3).abs() < 8
    torch.testing.assert_close(mass[near].log(), density[near], atol=0.06, rtol=0)


def test_scales_never_fall_below_their_floor() -> None:
    model = make_model(objective=Objective(rgb=RgbLikelihood(scale_floor=0.05)))
    with torch.no_grad():
        model.log_scales["rgb"].fill_(-60.0)
    assert model.scales()["rgb"].item() == pytest.approx(0.05)


def test_classes_are_counted_by_the_dataset() -> None:
    model = build_autoencoder(Model(width=8), Objective(), INFO, 0)
    decoded = model.decode(torch.zeros(1, 32), {"rgb": torch.zeros(1, 16)})
    assert decoded.seg is not None
    assert decoded.seg.shape == (1, CLASSES, SIZE, SIZE)


def test_cross_entropy_of_values_that_are_0_or_1_is_their_bernoulli_nll() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(2, 3, 8, 8, generator=generator)
    value = (torch.rand(2, 3, 8, 8, generator=generator) < 0.5).float()
    expected = -torch.distributions.Bernoulli(probs=share).log_prob(value).flatten(1).sum(1)
    torch.testing.assert_close(cross_entropy(share, value, everywhere(2, 8)), expected)


def test_cross_entropy_is_least_at_the_value_where_it_is_the_values_entropy() -> None:
    value = torch.tensor([0.1, 0.25, 0.5, 0.9]).view(1, 1, 2, 2).double()
    logit = torch.zeros_like(value, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = cross_entropy(logit.sigmoid(), value, everywhere(1, 2)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    torch.testing.assert_close(logit.detach().sigmoid(), value, rtol=0, atol=1e-5)
    entropy = -(value * value.log() + (1 - value) * (1 - value).log()).sum()
    assert loss().item() == pytest.approx(entropy.item())


@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_cross_entropy_never_sees_a_pixel_without_a_value(filler: float) -> None:
    valid = everywhere(2, 4)
    valid[0, 0, 1], valid[1] = False, False
    value = torch.where(valid[:, None], torch.full((2, 3, 4, 4), 0.3), filler)
    logit = torch.zeros(2, 3, 4, 4, requires_grad=True)
    cost = cross_entropy(logit.sigmoid(), value, valid)
    (gradient,) = torch.autograd.grad(cost.sum(), logit)
    assert cost[0].item() == pytest.approx(45 * math.log(2))
    assert cost[1].item() == 0.0
    assert not gradient[0, :, 0, 1].any()
    assert not gradient[1].any()
    torch.testing.assert_close(gradient[0, 0, 0, 0], torch.tensor(0.2))  # y - x at the logit


def test_with_cross_entropy_rgb_is_a_share_and_has_no_scale_to_learn() -> None:
    objective = Objective(rgb=RgbLikelihood(density="bce"))
    model, batch = make_model(objective=objective), make_batch(2)
    decoded = model.decode(torch.randn(2, 6) * 50, {"rgb": torch.randn(2, 3) * 50})
    assert decoded.rgb is not None
    assert decoded.rgb.min() >= 0.0
    assert decoded.rgb.max() <= 1.0
    rows = nll(model, decoded, batch, objective)["rgb"]
    torch.testing.assert_close(rows, cross_entropy(decoded.rgb, batch.modalities["rgb"].value, everywhere(2)))
    assert not model.log_scales["rgb"].requires_grad
