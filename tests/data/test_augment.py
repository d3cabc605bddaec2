"""Augmentation: the same for all modalities of a sample, and of known effect."""

import numpy as np
import pytest

from pipeline.data.loader.arrays import Arrays, Layout
from pipeline.data.loader.augment import Augmentation, hue_rotation

SIZE = 16
LAYOUT = Layout(("rgb", "depth", "seg"), SIZE)


def scene(rows: int = 1) -> Arrays:
    """Every pixel says where it is: red and depth grow to the right, green and labels downwards."""
    arrays = LAYOUT.arrays(bytearray(LAYOUT.bytes_for(rows)), rows)
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    arrays.value["rgb"][..., 0] = across * 8
    arrays.value["rgb"][..., 1] = down * 8
    arrays.value["rgb"][..., 2] = 50
    arrays.value["depth"][:] = 1 + across
    arrays.value["seg"][:] = down
    for present in arrays.present.values():
        present[:] = True
    return arrays


def applied(augmentation: Augmentation, rows: int = 1, epoch: int = 0) -> Arrays:
    arrays = scene(rows)
    augmentation.apply(arrays, np.full(rows, epoch), np.arange(rows))
    return arrays


def test_nothing_is_changed_by_default() -> None:
    arrays = applied(Augmentation(seed=0), 4)
    for name, values in scene(4).value.items():
        np.testing.assert_array_equal(arrays.value[name], values)


def test_a_flip_mirrors_every_modality() -> None:
    arrays, before = scene(), scene()
    for one in (arrays, before):
        one.value["seg"][:] = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    Augmentation(seed=0, flip=1.0).apply(arrays, np.zeros(1, np.int64), np.zeros(1, np.int64))
    for name, values in before.value.items():
        np.testing.assert_array_equal(arrays.value[name][0], values[0][:, ::-1])


def test_half_of_the_samples_are_flipped_and_others_in_the_next_epoch() -> None:
    def flipped(epoch: int) -> np.ndarray:
        return applied(Augmentation(seed=0, flip=0.5), 400, epoch).value["depth"][:, 0, 0] > 1

    assert 160 < flipped(0).sum() < 240
    assert 0.35 < (flipped(0) == flipped(1)).mean() < 0.65
    np.testing.assert_array_equal(flipped(3), flipped(3))


def test_a_crop_is_the_same_square_in_every_modality() -> None:
    """Where colour, depth and label of a pixel say it was, they agree to half a pixel."""
    arrays = applied(Augmentation(seed=1, crop=0.5, flip=0.5), 50)
    rgb, depth, seg = (arrays.value[name].astype(np.float64) for name in ("rgb", "depth", "seg"))
    inner = np.s_[:, 1:-1, 1:-1]  # RGB's edge pixels are interpolated from one side only
    assert np.abs(rgb[..., 0] / 8 - (depth - 1))[inner].max() <= 0.76
    assert np.abs(rgb[..., 1] / 8 - seg)[inner].max() <= 0.76
    widths = depth.max((1, 2)) - depth.min((1, 2))
    assert widths.min() >= SIZE / 2 - 1
    assert widths.max() < SIZE
    assert set(np.unique(seg)) <= set(range(SIZE))


def test_a_crop_to_a_known_square_takes_known_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side 8 of 16 from (4, 2): every pixel of that square appears as a square of two by two."""
    draws = np.array([[1.0, 1.0, 0.5, 0.25, 0.5, 0.5, 0.5, 0.5]])
    monkeypatch.setattr(Augmentation, "draws", lambda self, epoch, sample: draws)
    arrays = applied(Augmentation(seed=0, crop=0.5))
    across, down = np.repeat(np.arange(4, 12), 2), np.repeat(np.arange(2, 10), 2)
    np.testing.assert_array_equal(arrays.value["depth"][0], np.tile(1 + across, (SIZE, 1)))
    np.testing.assert_array_equal(arrays.value["seg"][0], np.tile(down[:, None], (1, SIZE)))
    half = 8 * (np.arange(SIZE) / 2 + 4 - 0.25)  # RGB halfway between the middles of two pixels
    np.testing.assert_allclose(arrays.value["rgb"][0, 0, 1:-1, 0], half[1:-1], atol=1)

    rescaled = applied(Augmentation(seed=0, crop=0.5, rescale_depth=True))
    np.testing.assert_array_equal(rescaled.value["depth"], arrays.value["depth"] / 2)


def test_invalid_depth_and_missing_modalities_stay_so() -> None:
    arrays = scene(2)
    arrays.value["depth"][0, :, :8] = np.nan
    arrays.lacks("rgb", 1)
    augmentation = Augmentation(seed=0, flip=1.0, crop=0.9, rescale_depth=True, brightness=0.5)
    augmentation.apply(arrays, np.zeros(2, np.int64), np.arange(2))
    depth = arrays.value["depth"][0]
    assert np.isnan(depth[:, 9:]).all()
    assert np.isfinite(depth[:, :7]).all()
    assert not arrays.value["rgb"][1].any()
    assert not arrays.present["rgb"][1]


def test_colour_acts_on_rgb_alone() -> None:
    arrays = applied(Augmentation(seed=0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2))
    assert (arrays.value["rgb"] != scene().value["rgb"]).mean() > 0.5
    for name in ("depth", "seg"):
        np.testing.assert_array_equal(arrays.value[name], scene().value[name])


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [
        ({"brightness": 0.5}, lambda rgb: 1.5 * rgb),
        ({"saturation": 1.0}, lambda rgb: 2 * rgb - grey(rgb)[..., None]),
        ({"contrast": 0.5}, lambda rgb: 1.5 * rgb - 0.5 * grey(rgb).mean()),
    ],
)
def test_each_change_of_colour_has_its_known_effect(
    monkeypatch: pytest.MonkeyPatch, strengths: dict[str, float], expected
) -> None:
    monkeypatch.setattr(Augmentation, "draws", lambda self, epoch, sample: np.ones((1, 8)))
    found = applied(Augmentation(seed=0, **strengths)).value["rgb"]
    before = scene().value["rgb"].astype(np.float64)
    np.testing.assert_allclose(found, expected(before).clip(0, 255), atol=0.51)


def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def test_turning_the_hue_keeps_greys_and_luma_and_comes_back() -> None:
    third = hue_rotation(1 / 3)
    np.testing.assert_allclose(third @ np.ones(3), np.ones(3), atol=1e-3)
    np.testing.assert_allclose(np.array([0.299, 0.587, 0.114]) @ third, [0.299, 0.587, 0.114], atol=1e-9)
    np.testing.assert_allclose(third @ third @ third, np.eye(3), atol=1e-9)
    assert np.abs(third - np.eye(3)).max() > 0.5
