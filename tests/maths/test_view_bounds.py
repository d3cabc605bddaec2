"""Several views of a row, through the whole model, in float64."""

import math

import pytest
import torch
from by_hand import SIZE, make_batch, make_model, without

from pipeline.config.model import Model
from pipeline.config.objective import KlRegulariser, Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.posterior import POINT_LOGVAR
from pipeline.models.variables import Noise
from pipeline.models.views import Views, choose_views, subset_masks
from pipeline.objectives.elbo import negative_elbo

SYSTEMS = [
    ("poe", "whole"),
    ("poe", "subsampled"),
    ("mopoe", "enumerated"),
    ("mvtcae", "whole"),
    ("moe", "each"),
    ("mmvaeplus", "each"),
    ("barycentre", "drawn"),
    ("joint", "enumerated"),
]


def model_of(fusion: str, subsets: str) -> SharedLatentAutoencoder:
    config = Model(latent=4, private={"rgb": 2}, width=8, fusion=fusion, subsets=subsets)
    return make_model(config).double()


def some_missing(rows: int) -> Batch:
    batch = without(without(make_batch(rows), "depth", [1], math.nan), "rgb", [2], math.nan)
    return without(batch, "seg", [0, 1], 255)


def lose(
    model: SharedLatentAutoencoder,
    batch: Batch,
    views: Views,
    numbers: torch.Tensor,
    global_batch: int,
    objective: Objective | None = None,
) -> torch.Tensor:
    """The loss with the noise of each row and view in `numbers`: (view, row, number)."""
    flat = numbers.flatten(0, 1)
    noise = Noise(flat[:, : model.latent], {"rgb": flat[:, model.latent :]})
    output = model(batch, views.given, noise)
    objective = objective or Objective()
    return negative_elbo(model, output, batch, objective, views, beta=0.8, global_batch=global_batch).total


def normals(views: int, rows: int, width: int = 6) -> torch.Tensor:
    return torch.randn(views, rows, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_enumerated_mopoe_is_the_average_over_subsets() -> None:
    model, batch = model_of("mopoe", "enumerated"), some_missing(3)
    present, numbers = batch.present(), normals(7, 3)
    views = choose_views("mopoe", "enumerated", present, torch.zeros(3, 1))
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        one = batch.rows(row, row + 1)
        losses = [
            lose(
                model,
                one,
                Views(subset[:, None], one.present(), torch.ones(1)),
                numbers[[number], row : row + 1],
                1,
            )
            for number, subset in enumerate(subset_masks(3))
            if not (subset & ~present[:, row]).any()
        ]
        assert len(losses) == 2 ** int(present[:, row].sum()) - 1
        expected = expected + sum(losses) / len(losses)
    torch.testing.assert_close(lose(model, batch, views, numbers, 1), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("fusion", "subsets"), SYSTEMS)
@pytest.mark.parametrize("estimator", ["iwae", "dreg"])
def test_a_batch_is_the_sum_of_its_halves(fusion: str, subsets: str, estimator: str) -> None:
    draws = 2 if subsets == "each" else 1
    if estimator == "dreg" and draws == 1:
        pytest.skip("for mixtures")
    objective = Objective(regulariser=KlRegulariser(importance_samples=draws, estimator=estimator))
    model, batch = model_of(fusion, subsets), some_missing(4)
    choice = torch.linspace(0.1, 0.9, 4)[:, None]

    def learn(start: int, stop: int) -> list[torch.Tensor]:
        part = batch.rows(start, stop)
        views = choose_views(fusion, subsets, part.present(), choice[start:stop]).repeated(draws)
        numbers = normals(views.count, 4)[:, start:stop]
        loss = lose(model, part, views, numbers, 4, objective)
        wanted = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return [loss.detach(), *(torch.zeros(()) if part is None else part for part in found)]

    whole, first, second = learn(0, 4), learn(0, 2), learn(2, 4)
    for one, a, b in zip(whole, first, second, strict=True):
        torch.testing.assert_close(one, a + b, rtol=1e-9, atol=1e-8)


def test_private_latents_that_are_not_given_come_from_the_prior() -> None:
    everything, nothing = torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool)
    for fusion, subsets in SYSTEMS:
        model, batch = model_of(fusion, subsets), make_batch(2)
        if fusion == "mmvaeplus":
            model.log_auxiliary["rgb"].data.fill_(0.5)
        experts = model.encode(batch)
        assert torch.equal(
            model.posterior(experts, everything).private["rgb"].mean, experts.private["rgb"].mean
        )
        for training in (True, False):
            private = model.train(training).posterior(experts, nothing).private["rgb"]
            assert not private.mean.any()
            auxiliary = 1.0 if fusion == "mmvaeplus" and training else 0.0
            assert (private.logvar == auxiliary).all()


def test_views_without_encoders_are_found_by_looking_at_the_sample_of_their_row() -> None:
    objective = Objective.model_validate({"regulariser": {"kind": "none"}})
    model = make_model(Model(latent=4, private={}, width=8, posterior="none"), objective)
    experts = model.encode(make_batch(2)).repeated(3)
    assert experts.sample is not None
    assert len(experts.sample) == experts.present.shape[1] == 6
    rgb = experts.sample.modalities["rgb"].value
    assert torch.equal(rgb, torch.cat([make_batch(2).modalities["rgb"].value] * 3))


def test_points_stay_points_however_many_are_averaged() -> None:
    for fusion in ("moe", "barycentre", "joint"):
        config = Model(latent=4, private={}, width=8, fusion=fusion, posterior="deterministic")
        objective = Objective.model_validate({"regulariser": {"kind": "none"}})
        model, batch = make_model(config, objective), make_batch(2)
        shared = model.posterior(model.encode(batch), batch.present()).shared
        torch.testing.assert_close(shared.logvar, torch.full_like(shared.logvar, POINT_LOGVAR))
        torch.testing.assert_close(
            shared.sample(torch.ones_like(shared.mean)), shared.mean, rtol=0, atol=1e-6
        )


def test_a_modality_hidden_from_encoders_is_predicted_whatever_the_views() -> None:
    batch, hidden = make_batch(2), without(make_batch(2), "depth", [0, 1], math.nan)
    assert batch.modalities["depth"].value.shape[-1] == SIZE
    for fusion, subsets in (("joint", "whole"), ("joint", "drawn"), ("joint", "enumerated")):
        model = model_of(fusion, subsets)
        views = choose_views(fusion, subsets, hidden.present(), torch.zeros(2, 1), batch.present())
        flat = normals(views.count, 2).flatten(0, 1)
        output = model(hidden, views.given, Noise(flat[:, :4], {"rgb": flat[:, 4:]}))
        loss = negative_elbo(model, output, batch, Objective(), views, beta=1.0, global_batch=2)
        assert loss.terms["depth_nll"].item() > 0.0
