from typing import get_args

import pytest
import torch
from by_hand import CLASSES, SIZE, make_batch, make_model, without
from torch import Tensor

from pipeline.config.objective import ImageAdversary
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.discriminator import SceneDiscriminator, build_discriminator
from pipeline.models.variables import Decoded
from pipeline.objectives.adversarial import Kind
from pipeline.training.adversary import (
    Pairs,
    choose_fakes,
    decoded_tensors,
    gradient_at,
    learn_to_tell,
    pair_up,
    pull_on_decoders,
    scene_events,
    squared_norm,
)

KINDS: tuple[Kind, ...] = get_args(Kind)
IMAGE = ImageAdversary(kind="image", width=8, r1=0.7, r2=0.3)


def make_model_and_judge() -> tuple[SharedLatentAutoencoder, SceneDiscriminator]:
    model = make_model().double()
    return model, build_discriminator(IMAGE, model, seed=0).double()


def decode(model: SharedLatentAutoencoder, rows: int, seed: int) -> Decoded:
    """Scenes of random latents."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, model.latent, dtype=torch.float64, generator=generator)
    private = {
        name: torch.randn(rows, width, dtype=torch.float64, generator=generator)
        for name, width in model.private.items()
    }
    return model.decode(shared, private)


def make_rows(rows: int) -> Batch:
    """A batch in which some rows lack RGB or labels."""
    return without(without(make_batch(rows), "rgb", [1], 0.0), "seg", [rows - 1], 255)


def some_rows(decoded: Decoded, start: int, stop: int) -> Decoded:
    return Decoded(*(part[start:stop] for part in decoded_tensors(decoded)))


def gradients(network: torch.nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def test_after_the_generators_step_the_discriminator_has_no_gradient() -> None:
    model, judge = make_model_and_judge()
    batch, decoded = make_rows(4), decode(model, 4, 0)
    pairs = pair_up(model, batch, [decoded], IMAGE.label_smoothing)
    pull = pull_on_decoders(judge, pairs, [decoded], "relativistic", global_batch=4)
    torch.autograd.backward(pull.term())
    assert gradients(judge) == [None] * len(gradients(judge))
    for decoder in model.decoders.values():
        assert any(gradient is not None and gradient.any() for gradient in gradients(decoder))


def test_after_the_discriminators_step_the_generator_has_no_gradient() -> None:
    model, judge = make_model_and_judge()
    pairs = pair_up(model, make_rows(4), [decode(model, 4, 0)], IMAGE.label_smoothing)
    torch.autograd.backward(learn_to_tell(judge, judge, pairs, IMAGE, global_batch=4).total)
    assert gradients(model) == [None] * len(gradients(model))
    assert all(gradient is not None and gradient.abs().max() > 1e-9 for gradient in gradients(judge))


@pytest.mark.parametrize("kind", KINDS)
def test_the_term_has_the_value_and_the_gradient_of_the_loss_through_the_discriminator(kind: Kind) -> None:
    model, judge = make_model_and_judge()
    batch, decoded = make_rows(4), decode(model, 4, 0)
    pairs = pair_up(model, batch, [decoded], 0.1)
    pull = pull_on_decoders(judge, pairs, [decoded], kind, global_batch=8)
    weight = model.decoders["seg"].head.weight
    (gradient,) = torch.autograd.grad(pull.term(), weight, retain_graph=True)
    again = pair_up(model, batch, [decode(model, 4, 0)], 0.1)
    real, fake = judge(again.real).logits.detach(), judge(again.fake).logits
    match kind:
        case "relativistic":
            each = torch.log1p(torch.exp(real - fake))
        case "nonsaturating":
            each = torch.log1p(torch.exp(-fake))
        case "hinge":
            each = -fake
    loss = (each * judge.weights).sum() / 8
    torch.testing.assert_close(pull.term(), loss)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, weight)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_down_the_term_make_fakes_seem_real_and_steps_of_the_discriminator_the_opposite(
    kind: Kind,
) -> None:
    model, judge = make_model_and_judge()
    batch = make_rows(4)
    section = IMAGE.model_copy(update={"loss": kind, "r1": 0.0, "r2": 0.0})

    def pairs_and_decoded() -> tuple[Pairs, Decoded]:
        decoded = decode(model, 4, 0)
        return pair_up(model, batch, [decoded], 0.1), decoded

    def advantage(pairs: Pairs) -> float:
        gap = judge(pairs.real).logits - judge(pairs.fake).logits
        return (gap @ judge.weights).sum().item()

    pairs, decoded = pairs_and_decoded()
    before = advantage(pairs)
    pull = pull_on_decoders(judge, pairs, [decoded], kind, global_batch=4)
    descend(model, pull.term())
    assert advantage(pairs_and_decoded()[0]) < before
    pairs, _ = pairs_and_decoded()
    before = advantage(pairs)
    descend(judge, learn_to_tell(judge, judge, pairs, section, global_batch=4).total)
    assert advantage(pairs) > before


def descend(network: torch.nn.Module, loss: Tensor, length: float = 1e-4) -> None:
    """A step down a loss."""
    parameters = list(network.parameters())
    steps = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    norm = torch.stack([step.norm() for step in steps]).norm()
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter -= length * step / norm


def test_a_batch_has_the_gradients_of_its_halves() -> None:
    model, judge = make_model_and_judge()
    batch = make_rows(8)

    def both_players(parts: list[tuple[int, int]]) -> tuple[list[Tensor], list[Tensor], list[float]]:
        """Gradients summed over what would be processes, like the terms."""
        decoders = [p for p in model.decoders.parameters()]
        pulled = [torch.zeros_like(p) for p in decoders]
        told = [torch.zeros_like(p) for p in judge.parameters()]
        terms: dict[str, float] = {}
        for start, stop in parts:
            fakes = [some_rows(decode(model, 8, seed), start, stop) for seed in (0, 1)]
            pairs = pair_up(model, batch.rows(start, stop), fakes, 0.1)
            pull = pull_on_decoders(judge, pairs, fakes, "relativistic", global_batch=8)
            loss = learn_to_tell(judge, judge, pairs, IMAGE, global_batch=8)
            for total, player, share in (
                (pull.term(), decoders, pulled),
                (loss.total, list(judge.parameters()), told),
            ):
                for sum_, gradient in zip(share, torch.autograd.grad(total, player), strict=True):
                    sum_ += gradient
            found = loss.terms | {"generator": pull.loss, "squares": squared_norm(pull.gradient)}
            terms = {name: terms.get(name, 0.0) + value.item() for name, value in found.items()}
        return pulled, told, list(terms.values())

    for whole, halves in zip(both_players([(0, 8)]), both_players([(0, 3), (3, 8)]), strict=True):
        torch.testing.assert_close(whole, halves, rtol=1e-12, atol=1e-14)


def test_several_views_and_kinds_of_fakes_are_averaged_within_a_row() -> None:
    model, judge = make_model_and_judge()
    batch = make_rows(3)
    first, second, prior = (decode(model, 3, seed) for seed in (0, 1, 2))
    views = Decoded(
        *(torch.cat(two) for two in zip(decoded_tensors(first), decoded_tensors(second), strict=True))
    )
    pairs = pair_up(model, batch, [views, prior], 0.1)
    assert pairs.shares.tolist() == [0.25, 0.25, 0.5]

    def terms(fakes: list[Decoded]) -> dict[str, Tensor]:
        shown = pair_up(model, batch, fakes, 0.1)
        pull = pull_on_decoders(judge, shown, fakes, "relativistic", global_batch=3)
        return learn_to_tell(judge, judge, shown, IMAGE, global_batch=3).terms | {"generator": pull.loss}

    together, alone = terms([views, prior]), [terms([one]) for one in (first, second, prior)]
    for name, value in together.items():
        expected = 0.25 * alone[0][name] + 0.25 * alone[1][name] + 0.5 * alone[2][name]
        torch.testing.assert_close(value, expected, msg=name)


def test_the_total_has_half_of_each_penalty() -> None:
    model, judge = make_model_and_judge()
    pairs = pair_up(model, make_rows(4), [decode(model, 4, 0)], 0.1)
    loss = learn_to_tell(judge, judge, pairs, IMAGE, global_batch=4)
    terms = {name: value.item() for name, value in loss.terms.items()}
    assert terms["r1"] > 0
    assert terms["r2"] > 0
    expected = terms["discriminator"] + 0.5 * 0.7 * terms["r1"] + 0.5 * 0.3 * terms["r2"]
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


def test_penalties_are_computed_in_float32_whatever_autocast_is_on() -> None:
    model = make_model()
    judge = build_discriminator(IMAGE, model, seed=0)
    batch = make_rows(4)
    with torch.no_grad():
        decoded = make_model().decode(torch.zeros(4, 6), {"rgb": torch.zeros(4, 3)})
    pairs = pair_up(model, batch, [decoded], 0.1)
    expected = learn_to_tell(judge, judge, pairs, IMAGE, global_batch=4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learn_to_tell(judge, judge, pairs, IMAGE, global_batch=4, bf16=True)
    assert torch.equal(loss.total, expected.total)
    without_penalty = IMAGE.model_copy(update={"r1": 0.0, "r2": 0.0})
    rough = learn_to_tell(judge, judge, pairs, without_penalty, global_batch=4, bf16=True)
    assert rough.total.dtype == torch.float32
    assert not torch.equal(rough.total, expected.terms["discriminator"])
    assert rough.terms["r1"].item() == rough.terms["r2"].item() == 0.0


def test_a_discriminator_that_is_trained_learns_to_tell() -> None:
    model, judge = make_model_and_judge()
    batch = make_rows(4)
    with torch.no_grad():
        decoded = decode(model, 4, 0)
    pairs = pair_up(model, batch, [decoded], 0.1)
    section = IMAGE.model_copy(update={"r1": 0.01, "r2": 0.01})
    for _ in range(20):
        loss = learn_to_tell(judge, judge, pairs, section, global_batch=4)
        descend(judge, loss.total, length=0.1)
    assert loss.terms["discriminator"].item() < 0.3
    assert loss.terms["discriminator_accuracy"].item() == 1.0


def test_a_reconstruction_without_gradient_at_an_image_counts_zero_and_its_graph_stays() -> None:
    model, _ = make_model_and_judge()
    decoded = decode(model, 2, 0)
    rgb = decoded.rgb
    assert rgb is not None
    loss = rgb.square().sum() / 2
    gradient = gradient_at(loss, decoded_tensors(decoded))
    assert squared_norm(gradient).item() == pytest.approx(rgb.square().sum().item(), rel=1e-12)
    assert not gradient[1].any()
    torch.autograd.backward(loss)


def test_a_scene_has_three_values_of_rgb_one_depth_and_one_label_per_pixel() -> None:
    assert scene_events(make_model()) == 5 * SIZE**2


def test_fakes_that_were_not_decoded_are_refused() -> None:
    model, _ = make_model_and_judge()
    reconstructed, generated = decode(model, 2, 0), decode(model, 2, 1)
    assert choose_fakes("both", reconstructed, generated) == (reconstructed, generated)
    assert choose_fakes("prior", None, generated) == (generated,)
    with pytest.raises(ValueError, match="fakes: both needs scenes"):
        choose_fakes("both", reconstructed, None)


def test_prior_samples_borrow_the_masks_of_the_row_they_are_paired_with() -> None:
    model, _ = make_model_and_judge()
    batch = without(make_batch(2), "depth", [0], 0.0)
    pairs = pair_up(model, batch, [decode(model, 2, 0), decode(model, 2, 1)], 0.1)
    depth = slice(3 * 16, 5 * 16)
    assert not pairs.fake[[0, 2], ..., depth].any()
    assert pairs.fake[[1, 3], ..., depth].any()
    assert pairs.real.shape == (2, SIZE // 4, SIZE // 4, 16 * (5 + CLASSES))
