import itertools

import matplotlib
import numpy as np
import pytest

from pipeline.analysis.colour import (
    DEPTH_COLOUR_MAP,
    NO_DEPTH,
    NO_LABEL,
    PALETTE,
    class_colour,
    depth_bar,
    depth_image,
    depth_range_m,
    rgb_image,
    seg_image,
)
from pipeline.data.modality import DepthStatistics

LINEAR_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])
LMS_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])
SEEN = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "normal vision": np.eye(3),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
}


def oklab(colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Ottosson 2020, of 8-bit sRGB as somebody sees it."""
    value = colours / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.cbrt(np.clip(linear @ seen.T, 0, 1) @ LINEAR_TO_LMS.T) @ LMS_TO_LAB.T


def smallest_distance(labels: int, seen: np.ndarray) -> float:
    lab = oklab(np.array([class_colour(label) for label in range(labels)]), seen)
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(lab, 2))


def test_class_colours_are_told_apart() -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= 32
    assert smallest_distance(len(PALETTE), SEEN["normal vision"]) > 0.07


@pytest.mark.parametrize("seen", SEEN)
def test_the_first_ten_class_colours_are_told_apart_by_the_colour_blind(seen: str) -> None:
    assert smallest_distance(10, SEEN[seen]) > 0.055


def test_background_is_muted() -> None:
    chroma = np.hypot(*oklab(np.array([class_colour(label) for label in range(8)]), np.eye(3))[:, 1:].T)
    assert chroma[0] == chroma.min() < 0.03


def test_labels_past_the_palette_have_a_colour_but_never_the_background_one() -> None:
    beyond = {class_colour(label) for label in range(len(PALETTE), 255)}
    assert beyond == {class_colour(label) for label in range(1, len(PALETTE))}


def test_seg_pixels_have_the_colour_of_their_label_and_ignored_ones_are_almost_black() -> None:
    image = seg_image(np.array([[0, 3], [255, 1]], np.int64))
    assert [tuple(map(int, pixel)) for pixel in image.reshape(-1, 3)] == [
        class_colour(0),
        class_colour(3),
        NO_LABEL,
        class_colour(1),
    ]
    assert max(NO_LABEL) < 32


def test_rgb_is_rounded_and_clamped() -> None:
    values = np.array([-0.3, 0.0, 0.5, 1.0, 1.7], np.float32)
    image = rgb_image(np.broadcast_to(values, (3, 1, 5)))
    assert image[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert rgb_image(image) is image


def test_near_is_bright_and_far_is_dark_without_ever_turning_back() -> None:
    image = depth_image(np.linspace(0.5, 4.5, 60, dtype=np.float32)[None], None, 1.0, 4.0)
    lightness = oklab(image[0], np.eye(3))[:, 0]
    assert np.all(np.diff(lightness) <= 1e-3)
    assert lightness[0] > 0.95
    assert lightness[-1] < 0.1
    assert np.array_equal(image[:, 0], image[:, 5])  # nearer than the range looks like its end


def test_invalid_depth_is_grey_whatever_stands_there() -> None:
    depth = np.array([[1.0, np.nan, 2.0, np.inf]], np.float32)
    image = depth_image(depth, np.array([[True, False, False, False]]), 1.0, 4.0)
    assert [tuple(map(int, pixel)) for pixel in image[0, 1:]] == [NO_DEPTH] * 3
    assert tuple(map(int, image[0, 0])) != NO_DEPTH
    bar = depth_bar(256, 1)[0].astype(int)
    assert np.abs(bar - np.array(NO_DEPTH)).sum(axis=1).min() > 25


def test_an_empty_depth_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low_m < high_m"):
        depth_image(np.ones((2, 2), np.float32), None, 2.0, 2.0)


def test_the_depth_range_leaves_outliers_out_and_is_never_empty() -> None:
    statistics = DepthStatistics(mean_m=2.0, std_m=0.4, min_m=1.5, max_m=60.0, log_mean=0.7, log_std=0.2)
    assert depth_range_m(statistics) == pytest.approx((1.5, 3.0))
    flat = DepthStatistics(mean_m=2.0, std_m=0.0, min_m=2.0, max_m=2.0, log_mean=0.7, log_std=0.0)
    low, high = depth_range_m(flat)
    assert low == 2.0 < high


def test_depth_has_the_colours_that_matplotlib_gives_them() -> None:
    expected = matplotlib.colormaps[DEPTH_COLOUR_MAP](np.arange(256))[:, :3] * 255
    np.testing.assert_array_equal(depth_bar(256, 1)[0], np.rint(expected))
