import dataclasses
from typing import Literal

import pytest
import torch
from by_hand import CLASSES, INFO, SIZE, make_batch, make_model, without
from einops import rearrange
from torch import Tensor

from pipeline.config.objective import ImageAdversary
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.discriminator import (
    PATCH,
    SceneDiscriminator,
    build_discriminator,
    scene_channels,
    scene_masks,
    scene_of_batch,
    scene_of_decoded,
)
from pipeline.models.variables import Decoded
from pipeline.objectives.adversarial import gradient_penalty

Heads = Literal["patch", "global", "both"]
IMAGE = ImageAdversary(kind="image", width=8)


def make_decoded(rows: int, seed: int = 3) -> Decoded:
    generator = torch.Generator().manual_seed(seed)
    rgb, depth, seg = (torch.randn(rows, c, SIZE, SIZE, generator=generator) for c in (3, 1, CLASSES))
    return Decoded(rgb, depth, seg)


def as_image(scene: Tensor) -> dict[str, Tensor]:
    """The channels of each modality by name."""
    sizes = [PATCH**2 * scene_channels((name,), CLASSES) for name in INFO.modalities]
    parts = zip(INFO.modalities, scene.split(sizes, dim=-1), strict=True)
    return {
        name: rearrange(part, "b h w (p q c) -> b c (h p) (w q)", p=PATCH, q=PATCH) for name, part in parts
    }


def with_holes(batch: Batch) -> Batch:
    """Invalid pixels in depth and labels, one row without RGB, one without depth."""
    holes = torch.rand(len(batch), SIZE, SIZE, generator=torch.Generator().manual_seed(9)) < 0.3
    changed = {}
    for name, filler in (("depth", torch.nan), ("seg", 255)):
        old = batch.modalities[name]
        mask = holes[:, None] if name == "depth" else holes
        changed[name] = ModalityBatch(torch.where(mask, filler, old.value), old.present, old.valid & ~holes)
    batch = dataclasses.replace(batch, modalities=batch.modalities | changed)
    return without(without(batch, "rgb", [1], torch.nan), "depth", [0], torch.nan)


def perfect(batch: Batch, model: SharedLatentAutoencoder, smoothing: float) -> Decoded:
    """What decodes to the batch itself."""
    depth, seg = batch.modalities["depth"], batch.modalities["seg"]
    one_hot = torch.eye(CLASSES)[seg.value.clamp(max=CLASSES - 1)].permute(0, 3, 1, 2)
    probability = (1 - smoothing) * one_hot + smoothing / CLASSES
    rgb = batch.modalities["rgb"].value
    return Decoded(rgb, model.standardise(depth.value, depth.valid), probability.log())


def test_a_scene_holds_rgb_depth_its_validity_and_labels() -> None:
    model, batch = make_model(), with_holes(make_batch(4))
    image = as_image(scene_of_batch(batch, model, smoothing=0.2))
    rgb, depth, seg = (batch.modalities[name] for name in ("rgb", "depth", "seg"))
    torch.testing.assert_close(image["rgb"][[0, 2, 3]], 2 * rgb.value[[0, 2, 3]] - 1)
    assert torch.equal(image["depth"][:, 1], depth.valid.float())
    mean, std = 3.0, 0.5
    torch.testing.assert_close(
        image["depth"][:, 0][depth.valid], ((depth.value[:, 0] - mean) / std)[depth.valid]
    )
    labels = image["seg"].permute(0, 2, 3, 1)[seg.valid]
    expected = 0.8 * torch.eye(CLASSES)[seg.value[seg.valid]] + 0.2 / CLASSES
    torch.testing.assert_close(labels, expected)
    for name, valid in (("depth", depth.valid), ("seg", seg.valid)):
        assert not image[name].permute(0, 2, 3, 1)[~valid].any()
    assert not image["rgb"][1].any()


def test_perfect_fakes_cannot_be_told_from_real_scenes_by_being_soft() -> None:
    model, batch = make_model(), with_holes(make_batch(4))
    real = scene_of_batch(batch, model, smoothing=0.1)
    fake = scene_of_decoded(perfect(batch, model, 0.1), scene_masks(batch, model), model)
    torch.testing.assert_close(real, fake)
    discriminator = build_discriminator(IMAGE, model, seed=0)
    torch.testing.assert_close(discriminator(real).logits, discriminator(fake).logits)
    one_hot = scene_of_batch(batch, model, smoothing=0.0)
    assert as_image(one_hot)["seg"].max() == 1.0
    assert as_image(real)["seg"].max() == pytest.approx(1 - 0.1 + 0.1 / CLASSES)


def test_what_is_masked_has_no_influence_at_all() -> None:
    model, batch = make_model(), with_holes(make_batch(4))
    masks = scene_masks(batch, model)
    decoded = make_decoded(4)
    expected = scene_of_decoded(decoded, masks, model)
    spoilt = Decoded(
        torch.where(masks["rgb"][:, None], decoded.rgb, torch.nan).requires_grad_(),
        torch.where(masks["depth"][:, None], decoded.depth, torch.nan).requires_grad_(),
        torch.where(masks["seg"][:, None], decoded.seg, torch.nan).requires_grad_(),
    )
    scene = scene_of_decoded(spoilt, masks, model)
    assert torch.equal(scene, expected)
    logits = build_discriminator(IMAGE, model, seed=0)(scene).logits
    images = (spoilt.rgb, spoilt.depth, spoilt.seg)
    gradients = torch.autograd.grad(logits.sum(), images)  # type: ignore[arg-type]
    for gradient, mask in zip(gradients, masks.values(), strict=True):
        by_pixel = gradient.permute(0, 2, 3, 1)
        assert not by_pixel[~mask].any()
        assert by_pixel[mask].abs().sum() > 0
    filled = without(without(make_batch(4), "rgb", [1], 0.0), "depth", [0], 0.0)
    other = without(without(make_batch(4), "rgb", [1], torch.nan), "depth", [0], torch.nan)
    assert torch.equal(scene_of_batch(filled, model, 0.1), scene_of_batch(other, model, 0.1))


def test_a_batch_without_a_modality_is_like_one_that_lacks_it_in_every_row() -> None:
    model, batch = make_model(), make_batch(3)
    lacking = without(batch, "seg", [0, 1, 2], 255)
    without_entry = dataclasses.replace(
        batch, modalities={name: batch.modalities[name] for name in ("rgb", "depth")}
    )
    assert torch.equal(scene_of_batch(lacking, model, 0.1), scene_of_batch(without_entry, model, 0.1))
    decoded = make_decoded(3)
    fakes = [scene_of_decoded(decoded, scene_masks(b, model), model) for b in (lacking, without_entry)]
    assert torch.equal(*fakes)
    assert not as_image(fakes[0])["seg"].any()


@pytest.mark.parametrize("heads", ["patch", "global", "both"])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_it_judges_every_image_size_and_never_mixes_rows(size: int, heads: Heads) -> None:
    discriminator = SceneDiscriminator(("rgb", "depth"), 0, size, 8, heads).double()
    side = size // PATCH
    scene = torch.randn(
        3, side, side, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    logits = discriminator(scene).logits
    patches = {"patch": (side // 2) ** 2, "global": 0, "both": (side // 2) ** 2}[heads]
    assert logits.shape == (3, patches + (heads != "patch"))
    assert discriminator.weights.sum().item() == pytest.approx(1.0, rel=1e-6)
    (gradient,) = torch.autograd.grad(logits[1].sum(), scene)
    assert not gradient[[0, 2]].any()
    assert gradient[1].abs().flatten(0, 1).sum(dim=1).all()  # it sees every patch
    torch.testing.assert_close(discriminator(scene[1:2]).logits, logits[1:2])


def test_with_both_heads_the_scene_counts_as_much_as_all_its_patches() -> None:
    weights = SceneDiscriminator(("rgb",), 0, 64, 8, "both").weights
    assert weights[-1].item() == 0.5
    assert weights[:-1].unique().tolist() == [0.5 / 64]


def test_a_patch_is_judged_by_its_surroundings_alone() -> None:
    discriminator = SceneDiscriminator(("rgb",), 0, 64, 8, "both")
    scene = torch.randn(1, 16, 16, 48, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(scene).logits[0, 0], scene)
    seen = gradient[0].abs().sum(dim=-1) > 0
    assert seen[:3, :3].all()
    assert seen.sum() == 9


def test_no_change_of_a_patch_escapes_it() -> None:
    discriminator = build_discriminator(ImageAdversary(kind="image"), make_model(), seed=0).double()
    values = PATCH**2 * scene_channels(INFO.modalities, CLASSES)
    assert torch.linalg.matrix_rank(discriminator.embed.weight) == values
    scene = torch.zeros(1, SIZE // 4, SIZE // 4, values, dtype=torch.float64)
    changed = scene.repeat(values, 1, 1, 1)
    changed[:, 1, 2] = torch.eye(values, dtype=torch.float64)
    judged = discriminator(changed).logits - discriminator(scene).logits
    assert judged.abs().amax(dim=1).min() > 1e-6


def test_features_of_a_patch_have_a_limit_however_many_classes() -> None:
    discriminator = SceneDiscriminator(("rgb", "seg"), 200, 32, 8, "both")
    assert discriminator.embed.weight.shape == (64, 16 * 203)


def test_weights_depend_on_the_seed_alone() -> None:
    model = make_model()
    state = torch.get_rng_state()
    first, again, other = (build_discriminator(IMAGE, model, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_its_penalty_at_embedded_patches_is_that_at_the_pixels() -> None:
    discriminator = build_discriminator(IMAGE, make_model(), seed=0).double()
    features = PATCH**2 * scene_channels(INFO.modalities, CLASSES)
    scene = torch.randn(2, SIZE // 4, SIZE // 4, features, dtype=torch.float64, requires_grad=True)
    logits, embedded = discriminator(scene)
    weights = discriminator.weights
    torch.testing.assert_close(
        gradient_penalty(logits, embedded, weights, discriminator.metric()),
        gradient_penalty(logits, scene, weights),
    )
