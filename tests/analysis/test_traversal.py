"""What latents of a hand-made decoder do is found out and said."""

import numpy as np
import pytest
from planted_scenes import (
    CLASSES,
    FLICKER,
    LARGER,
    LATENTS,
    NEARER,
    NOTHING,
    REDDER,
    RIGHT,
    decode,
    draw_codes,
    usage,
)

from pipeline.analysis.measure import Quantity, measure, quantities, spread
from pipeline.analysis.naming import name_effect
from pipeline.analysis.traversal import latent_layout, latent_usage, traverse
from pipeline.analysis.views import Views


@pytest.mark.parametrize(
    ("latent", "quantity", "words"),
    [
        (NEARER, Quantity("ball", "depth_m"), "ball nearer: \N{MINUS SIGN}0.80 m"),
        (LARGER, Quantity("ball", "area"), "ball larger: +2"),
        (REDDER, Quantity("floor", "red_green"), "floor redder: 0.40"),
        (RIGHT, Quantity("ball", "across"), "ball moves right: 3"),
    ],
)
def test_planted_effect_is_found_and_named(latent, quantity, words):
    effect = _traverse(latent).effect
    assert effect.kind == "named"
    assert effect.quantity == quantity
    assert effect.name.startswith(words)
    assert effect.consistency == 1.0
    assert effect.scenes == 16


def test_latent_that_does_nothing_is_said_to_do_little():
    assert _traverse(NOTHING, flicker=0.0).effect.name == "little visible change"


def test_latent_that_does_something_else_in_every_scene_is_unclear():
    effect = _traverse(FLICKER).effect
    assert effect.kind == effect.name == "unclear"
    assert effect.consistency < 0.75


def test_traversal_moves_one_latent_and_keeps_the_scene():
    traversal = _traverse(RIGHT)
    assert traversal.positions == pytest.approx((-2.0, -1.0, 0.0, 1.0, 2.0))
    codes = draw_codes(16)
    for row, views in enumerate(traversal.views):
        expected = np.repeat(codes[row : row + 1], 5, axis=0)
        expected[:, RIGHT] = traversal.positions
        np.testing.assert_array_equal(views.labels, decode(expected).labels)
    assert len(traversal.views) == 2


def test_effect_reverses_with_the_direction_of_the_latent():
    codes = draw_codes(16)
    named = quantities(decode(codes), CLASSES)
    measured = measure(decode(codes), CLASSES)
    low, high = (measure(decode(_moved(codes, NEARER, end)), CLASSES) for end in (-2.0, 2.0))
    deviation = spread(measured, named)
    forth, back = name_effect(low, high, deviation, named), name_effect(high, low, deviation, named)
    assert (forth.change, forth.deviations) == pytest.approx((-back.change, -back.deviations))
    assert back.name == "ball farther: +0.80 m"


def test_class_that_appears_counts_as_grown_from_nothing():
    named = (Quantity("box", "area"),)
    low, high = np.full((8, 1), np.nan), np.full((8, 1), 0.1)
    effect = name_effect(low, high, np.array([0.05]), named)
    assert effect.name == "box larger: +10.0 % of the image"


def test_classes_that_do_the_same_are_named_together():
    named = (Quantity("ball", "area"), Quantity("box", "area"), Quantity("floor", "area"))
    high = np.tile([0.10, 0.09, -0.19], (8, 1))
    effect = name_effect(np.zeros((8, 3)), high, np.array([0.05, 0.05, 0.2]), named)
    assert effect.name == "ball and box larger: +10.0 % of the image"


def test_change_too_small_to_see_is_not_named_however_rare_it_is():
    named = (Quantity("ball", "lightness"), Quantity("ball", "area"))
    high = np.tile([0.01, 0.02], (8, 1))
    effect = name_effect(np.zeros((8, 2)), high, np.array([0.001, 0.03]), named)
    assert effect.quantity == Quantity("ball", "area")


def test_quantity_known_in_too_few_scenes_names_nothing():
    high = np.full((8, 1), np.nan)
    high[:3] = 1.0
    effect = name_effect(np.zeros((8, 1)), high, np.array([0.1]), (Quantity("box", "depth_m"),))
    assert effect.kind == "none"


def test_measure_gives_what_was_drawn():
    labels = np.zeros((1, 10, 10), np.uint8)
    labels[:, :, 6:8] = 1
    depth_m = np.where(labels == 1, 1.5, 3.0).astype(np.float32)
    depth_m[0, 0, 6] = np.nan
    rgb = np.zeros((1, 3, 10, 10), np.float32)
    rgb[:, 0, :, 6:8] = 0.6
    views = Views(rgb, depth_m, labels)
    found = dict(zip(quantities(views, CLASSES), measure(views, CLASSES)[0], strict=True))
    assert found[Quantity("ball", "area")] == pytest.approx(0.2)
    assert found[Quantity("ball", "across")] == pytest.approx(0.7)
    assert found[Quantity("ball", "down")] == pytest.approx(0.5)
    assert found[Quantity("ball", "depth_m")] == pytest.approx(1.5)
    assert found[Quantity("ball", "lightness")] == pytest.approx(0.2)
    assert found[Quantity("ball", "red_green")] == pytest.approx(0.6)
    assert found[Quantity("ball", "yellow_blue")] == pytest.approx(0.3)
    assert found[Quantity("scene", "depth_m")] == pytest.approx((19 * 1.5 + 80 * 3.0) / 99)
    assert np.isnan(found[Quantity("box", "depth_m")])


def test_pixels_without_label_belong_to_no_class():
    labels = np.full((1, 4, 4), 255, np.uint8)
    labels[0, 0] = 1
    found = measure(Views(labels=labels), CLASSES)
    assert found[0, [0, 3, 6]] == pytest.approx([np.nan, 0.25, np.nan], nan_ok=True)


def test_unused_latent_spans_the_prior_and_has_no_kl():
    latents = latent_layout(1, {"rgb": 1})
    rng = np.random.default_rng(0)
    mean = np.stack([np.zeros(4000), rng.standard_normal(4000)], axis=1).astype(np.float32)
    logvar = np.tile(np.array([0.0, -8.0], np.float32), (4000, 1))
    found = latent_usage(latents, mean, logvar, rng)
    assert found.kl_nats[0] == pytest.approx(0.0, abs=1e-6)
    assert found.kl_nats[1] == pytest.approx(0.5 * (1.0 + np.exp(-8.0) - 1.0 + 8.0), abs=0.05)
    np.testing.assert_allclose([found.low[0], found.high[0]], [-1.96, 1.96], atol=0.12)


@pytest.mark.parametrize(
    ("count", "keys"),
    [
        (1, ["z03"]),
        (4, ["z03", "z00", "z01", "rgb00"]),
        (6, ["z03", "z00", "z01", "z04", "z02", "rgb00"]),
        (9, ["z03", "z00", "z01", "z04", "z02", "rgb00"]),
    ],
)
def test_busiest_latents_come_first_and_private_ones_last(count, keys):
    assert [latent.key for latent in usage().busiest(count)] == keys


def _traverse(column, flicker=1.0):
    codes = draw_codes(16)
    codes[:, FLICKER] *= flicker
    views = decode(draw_codes(300, seed=1))
    named = quantities(views, CLASSES)
    return traverse(
        decode,
        codes,
        LATENTS[column],
        usage(),
        steps=5,
        shown=2,
        class_names=CLASSES,
        deviation=spread(measure(views, CLASSES), named),
        named=named,
    )


def _moved(codes, column, value):
    moved = codes.copy()
    moved[:, column] = value
    return moved
