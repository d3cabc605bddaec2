"""Cutting and resizing never makes up a depth or a label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.data.pictures.square import Square, turned

SIDES = st.integers(9, 70)


@given(SIDES, SIDES, st.sampled_from([8, 16, 32]), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_sampled_depth_is_always_a_measured_value(height: int, width: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 9, (height, width)).astype(np.float32)
    depth[rng.random((height, width)) < 0.5] = np.nan
    sampled = Square(height, width, size).depth(depth)
    assert sampled.shape == (size, size)
    assert np.isin(sampled[~np.isnan(sampled)], depth).all()


@given(SIDES, SIDES, st.sampled_from([8, 16, 32]))
@settings(deadline=None, max_examples=40)
def test_depth_and_labels_come_from_the_centred_square(height: int, width: int, size: int) -> None:
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    inside = np.zeros((height, width), bool)
    inside[top : top + side, left : left + side] = True
    square = Square(height, width, size)
    assert (square.seg(inside.astype(np.uint8)) == 1).all()
    assert not np.isnan(square.depth(np.where(inside, np.float32(1), np.float32(np.nan)))).any()
    rgb = np.where(inside[..., None], np.uint8(200), np.uint8(0)).repeat(3, axis=2)
    assert (square.rgb(rgb) == 200).all()


def test_labels_and_depth_are_sampled_at_the_same_places() -> None:
    labels = np.arange(45 * 61, dtype=np.uint32).reshape(45, 61)
    square = Square(45, 61, 16)
    as_depth = square.depth(labels.astype(np.float32) + 1)
    as_label = square.seg((labels % 251).astype(np.uint8))
    np.testing.assert_array_equal((as_depth.astype(np.int64) - 1) % 251, as_label)


def test_a_hole_smaller_than_a_pixel_is_filled_from_beside_it_and_a_larger_one_stays() -> None:
    depth = np.ones((80, 80), np.float32)
    depth[4:7, 4:7] = np.nan  # the middle of the first of 8 x 8 pixels, each 10 wide
    depth[40:60, 40:60] = np.nan
    sampled = Square(80, 80, 8).depth(depth)
    assert sampled[0, 0] == 1
    assert np.isnan(sampled[4:6, 4:6]).all()
    assert np.isnan(sampled).sum() == 4


def test_rgb_is_the_mean_over_the_area_of_a_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    exact = picture[:, 10:50].reshape(8, 5, 8, 5, 3).mean((1, 3))
    assert np.abs(Square(40, 60, 8).rgb(picture) - exact).max() < 1.01  # it rounds twice, across and down


def test_depth_of_two_surfaces_is_never_between_them() -> None:
    depth = np.full((90, 90), 1, np.float32)
    depth[:, 41:] = 5
    sampled = Square(90, 90, 16).depth(depth)
    assert set(sampled.ravel().tolist()) == {1.0, 5.0}


def test_the_nearest_valid_depth_fills_a_hole_in_the_middle_of_an_area() -> None:
    depth = np.full((50, 50), np.nan, np.float32)  # areas of 10 x 10, middles at 5, 15, ...
    depth[5, 7], depth[3, 3] = 7, 3  # 2 and 2.8 away from the middle of the first
    sampled = Square(50, 50, 5).depth(depth)
    assert sampled[0, 0] == 7
    assert np.isnan(sampled.ravel()[1:]).all()


def test_majority_takes_the_most_frequent_label_of_each_area() -> None:
    labels = np.zeros((6, 8), np.uint8)
    square = labels[:, 1:7]  # the centred one; areas of 3 x 3
    square[:3, :3] = [[1, 1, 1], [1, 9, 9], [1, 9, 9]]  # 5 against 4; the middle is 9
    square[:3, 3:] = [[255, 255, 255], [255, 255, 2], [2, 2, 2]]  # no label is the most frequent
    square[3:, :3] = [[4, 4, 4], [3, 3, 3], [3, 4, 7]]  # 4 against 4: the smaller
    square[3:, 3:] = 8
    assert Square(6, 8, 2).majority(labels).tolist() == [[1, 255], [3, 8]]
    assert Square(6, 8, 2).seg(labels).tolist() == [[9, 255], [3, 8]]


@given(SIDES, SIDES, st.sampled_from([4, 8, 16]), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_majority_agrees_with_counting_one_area_after_the_other(
    height: int, width: int, size: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    side = min(height, width)
    if side < size:
        return
    top, left = (height - side) // 2, (width - side) // 2
    square = labels[top : top + side, left : left + side]
    area_of = [int((n + 0.5) * size / side) for n in range(side)]
    expected = np.zeros((size, size), np.uint8)
    for down in range(size):
        for right in range(size):
            area = square[np.equal(area_of, down)][:, np.equal(area_of, right)]
            expected[down, right] = np.bincount(area.ravel(), minlength=256).argmax()
    np.testing.assert_array_equal(Square(height, width, size).majority(labels), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_agrees_with_what_viewers_do(orientation: int) -> None:
    stored = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(turned(stored, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_a_small_picture_is_enlarged_without_new_depths_or_labels() -> None:
    depth = np.array([[1, 2], [3, np.nan]], np.float32)
    sampled = Square(2, 2, 8).depth(depth)
    assert sampled[:4, :4].tolist() == [[1.0] * 4] * 4
    assert np.isnan(sampled[4:, 4:]).all()
    labels = np.array([[1, 2], [3, 255]], np.uint8)
    for enlarged in (Square(2, 2, 8).seg(labels), Square(2, 2, 8).majority(labels)):
        assert np.unique(enlarged).tolist() == [1, 2, 3, 255]
        assert (enlarged[:4, 4:] == 2).all()
