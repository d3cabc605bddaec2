import math

import pytest
import torch
from by_hand import make_batch, make_model, make_noise, without

from pipeline.config.model import Model
from pipeline.config.objective import DepthLikelihood, Objective, RgbLikelihood, SegLikelihood
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Output
from pipeline.models.views import Views
from pipeline.objectives.divergence import kl_to_experts
from pipeline.objectives.elbo import Loss, mvtcae, negative_elbo
from pipeline.objectives.likelihood import nll

EVERYTHING = torch.ones(3, 1, dtype=torch.bool)


def run(model: SharedLatentAutoencoder, batch: Batch, given: torch.Tensor | None = None) -> Output:
    given = batch.present() if given is None else given.expand(3, len(batch))
    return model(batch, given, make_noise(model, len(batch)))


def lose(
    model: SharedLatentAutoencoder,
    batch: Batch,
    given: torch.Tensor | None = None,
    objective: Objective | None = None,
    beta: float = 1.0,
) -> Loss:
    output = run(model, batch, given)
    return negative_elbo(
        model,
        output,
        batch,
        objective or Objective(),
        one_view(output, batch),
        beta=beta,
        global_batch=len(batch),
    )


def one_view(output: Output, batch: Batch) -> Views:
    return Views(output.given, batch.present(), torch.ones(len(batch)))


def test_mvtcae_with_one_modality_is_a_share_of_the_beta_elbo() -> None:
    reconstruction, kl = torch.tensor([5.0, 7.0]), torch.tensor([2.0, 3.0])
    one = torch.ones(2, dtype=torch.long)
    torch.testing.assert_close(
        mvtcae(reconstruction, kl, torch.zeros(2), one, 0.3, 2.5), (1 - 0.3) * (reconstruction + 2.5 * kl)
    )


def test_mvtcae_without_alpha_is_the_elbo_of_the_product_of_experts() -> None:
    model = make_model(Model(latent=6, private={"rgb": 3}, width=8, fusion="mvtcae"))
    batch, objective = make_batch(4), Objective(mvtcae_alpha=0.0)
    poe = make_model(Model(latent=6, private={"rgb": 3}, width=8, fusion="poe", prior_expert="none"))
    bound = lose(model, batch, objective=objective, beta=0.7)
    torch.testing.assert_close(bound.total, lose(poe, batch, objective=objective, beta=0.7).total)


def test_mvtcae_follows_its_formula_and_falls_back_to_the_elbo_for_a_single_modality() -> None:
    model = make_model(Model(latent=6, private={"rgb": 3}, width=8, fusion="mvtcae"))
    batch = without(without(make_batch(2), "depth", [1], 0.0), "seg", [1], 255)
    output, alpha, beta = run(model, batch), 5 / 6, 0.5
    loss = negative_elbo(
        model, output, batch, Objective(), one_view(output, batch), beta=beta, global_batch=1
    )
    rows = sum(nll(model, output.decoded, batch, Objective()).values())
    rows = rows + beta * output.posterior.private["rgb"].kl_to_standard().sum(1)
    kl = output.posterior.shared.kl_to_standard().sum(1)
    to_experts = kl_to_experts(output.posterior.shared, output.experts)
    first = (3 - alpha) / 3 * rows[0] + beta * ((1 - alpha) * kl[0] + alpha / 3 * to_experts[0])
    torch.testing.assert_close(loss.total, first + rows[1] + beta * kl[1])
    assert to_experts[1].item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("fusion", ["poe", "mopoe", "mvtcae", "moe", "barycentre", "joint"])
@pytest.mark.parametrize("modality", ["rgb", "depth", "seg"])
def test_a_missing_modality_changes_nothing_whatever_stands_in_its_place(fusion: str, modality: str) -> None:
    model = make_model(Model(latent=6, private={"rgb": 3}, width=8, fusion=fusion))
    fillers = (0, 2, 255) if modality == "seg" else (0.0, 3.5, math.nan)
    results = []
    for filler in fillers:
        model.zero_grad()
        loss = lose(model, without(make_batch(3), modality, [0, 1, 2], filler))
        loss.total.backward()
        results.append((loss.total.item(), [p.grad.clone() for p in model.parameters()]))
        assert all(not p.grad.any() for p in model.encoders[modality].parameters())
        assert all(not p.grad.any() for p in model.decoders[modality].parameters())
        assert loss.terms[f"{modality}_nll"].item() == 0.0
    for total, gradients in results[1:]:
        assert total == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


def test_a_row_without_a_modality_leaves_the_others_as_they_are() -> None:
    model = make_model()
    full, partial = make_batch(2), without(make_batch(2), "rgb", [1], math.nan)
    alone = run(model, full)
    beside = run(model, partial)
    torch.testing.assert_close(alone.posterior.shared.mean[0], beside.posterior.shared.mean[0])
    assert not torch.equal(alone.posterior.shared.mean[1], beside.posterior.shared.mean[1])


def test_a_row_with_nothing_costs_nothing() -> None:
    batch = make_batch(2)
    for modality, filler in (("rgb", math.nan), ("depth", math.nan), ("seg", 255)):
        batch = without(batch, modality, [1], filler)
    for fusion in ("poe", "mopoe", "mvtcae", "moe", "barycentre", "joint"):
        model = make_model(Model(latent=6, private={"rgb": 3}, width=8, fusion=fusion))
        both = lose(model, batch).total * 2
        output = run(model, batch)
        terms = nll(model, output.decoded, batch, Objective())
        assert all(row[1] == 0.0 for row in terms.values())
        assert both.isfinite()
        assert output.posterior.shared.kl_to_standard()[1].sum() == 0.0


def test_a_subset_reconstructs_all_that_is_present() -> None:
    model, batch = make_model(), make_batch(2)
    depth_only = torch.tensor([[False], [True], [False]])
    loss = lose(model, batch, depth_only)
    loss.total.backward()
    assert all(loss.terms[name] > 0 for name in ("rgb_nll", "depth_nll", "seg_nll"))
    assert all(p.grad.any() for p in model.decoders["rgb"].parameters())
    assert all(not p.grad.any() for p in model.encoders["rgb"].parameters())
    assert any(p.grad.any() for p in model.encoders["depth"].parameters())


def test_private_latents_cost_only_where_they_are_given() -> None:
    model, batch = make_model(), make_batch(2)
    depth_only = torch.tensor([[False], [True], [False]])
    assert lose(model, batch, depth_only).terms["kl_private_rgb"] == 0.0
    assert lose(model, batch, EVERYTHING).terms["kl_private_rgb"] > 0.0
    posterior = run(model, batch, depth_only).posterior.private["rgb"]
    assert not posterior.mean.any()
    assert not posterior.logvar.any()


def test_halves_of_a_batch_add_up_to_the_whole() -> None:
    model, batch = make_model(), make_batch(4)
    output = run(model, batch)
    whole = negative_elbo(
        model, output, batch, Objective(), one_view(output, batch), beta=1.0, global_batch=4
    )
    noise = make_noise(model, 4)
    total = torch.zeros(())
    for start in (0, 2):
        half = batch.rows(start, start + 2)
        part = type(noise)(
            noise.shared[start : start + 2], {k: v[start : start + 2] for k, v in noise.private.items()}
        )
        piece = model(half, half.present(), part)
        total = (
            total
            + negative_elbo(
                model, piece, half, Objective(), one_view(piece, half), beta=1.0, global_batch=4
            ).total
        )
    torch.testing.assert_close(total, whole.total)


def test_weights_and_beta_scale_their_terms() -> None:
    model, batch = make_model(), make_batch(2)
    objective = Objective(
        rgb=RgbLikelihood(weight=2.0), depth=DepthLikelihood(weight=0.0), seg=SegLikelihood(weight=0.5)
    )
    loss = lose(model, batch, objective=objective, beta=0.1)
    terms = loss.terms
    expected = 2 * terms["rgb_nll"] + 0.5 * terms["seg_nll"] + 0.1 * (terms["kl"] + terms["kl_private_rgb"])
    torch.testing.assert_close(loss.total.detach(), expected)


@pytest.mark.parametrize("network", ["residual", "plain"])
@pytest.mark.parametrize("latent", [6, (2, 4, 4)])
def test_a_missing_modality_stays_unseen_by_every_network(
    network: str, latent: int | tuple[int, int, int]
) -> None:
    model = make_model(Model(latent=latent, private={"rgb": 3}, width=8, network=network))
    totals = []
    for filler in (0.0, math.nan):
        model.zero_grad()
        loss = lose(model, without(make_batch(3), "rgb", [0, 1, 2], filler))
        loss.total.backward()
        totals.append(loss.total.item())
        assert all(not p.grad.any() for p in model.encoders["rgb"].parameters())
        assert all(not p.grad.any() for p in model.decoders["rgb"].parameters())
        assert any(p.grad.any() for p in model.encoders["depth"].parameters())
    assert totals[0] == totals[1]
    assert math.isfinite(totals[0])
