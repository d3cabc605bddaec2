"""Stored depth becomes planar metres, or is refused; every unit against numbers worked out by hand."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pipeline.config.pictures import DepthSection
from pipeline.data.pictures.depth import depth_m, depth_reading
from pipeline.data.pictures.files import decode_picture, picture_of
from pipeline.data.refusal import Refused


def metres(array: Any, **section: Any) -> np.ndarray:
    return depth_m(picture_of(np.asarray(array), "depth"), depth_reading(DepthSection(**section)))


def refused(array: Any, **section: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        metres(array, **section)
    assert "depth" in caught.value.detail
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("unit", "stored", "expected"),
    [
        ("m", 3, 3.0),
        ("cm", 250, 2.5),
        ("mm", 1234, 1.234),
        ("0.1mm", 12345, 1.2345),
        ("tum", 5000, 1.0),  # Freiburg's RGB-D benchmark: 5000 is a metre
        ("tum", 7500, 1.5),
        ("kitti", 256, 1.0),  # KITTI's depth benchmark: uint16 / 256
        ("kitti", 20480, 80.0),
        (0.00025, 4000, 1.0),
    ],
)
def test_units_are_what_their_datasets_say(unit: str | float, stored: int, expected: float) -> None:
    for kind in (np.uint16, np.int32, np.float64):
        np.testing.assert_allclose(
            metres(np.array([[stored, 0]], kind), unit=unit)[0, 0], expected, rtol=1e-6
        )
        assert np.isnan(metres(np.array([[stored, 0]], kind), unit=unit)[0, 1])


def test_a_unit_is_mandatory() -> None:
    with pytest.raises(ValidationError, match="unit"):
        DepthSection()  # type: ignore[call-arg]


def test_sunrgbd_rotates_its_bits() -> None:
    # SUN RGB-D's toolbox: bitor(bitshift(depth, -3), bitshift(depth, 13)), then millimetres
    mm = np.array([[1, 1000], [8191, 0]], np.uint16)
    stored = (mm << 3) | (mm >> 13)
    assert stored[0, 1] == 8000
    np.testing.assert_allclose(
        metres(stored, unit="mm", encoding="sunrgbd"), [[0.001, 1.0], [8.191, np.nan]], rtol=1e-6
    )
    low_bits = metres(np.array([[0b101]], np.uint16), unit="mm", encoding="sunrgbd")
    np.testing.assert_allclose(low_bits, [[0b101 * 8192 / 1000]], rtol=1e-6)
    assert refused(np.ones((2, 2)), unit="mm", encoding="sunrgbd").reason == "wrong_channels"


def test_cityscapes_disparity_becomes_depth() -> None:
    # Cityscapes: d = (p - 1) / 256 for p > 0, 0 is invalid; depth = focal * baseline / d
    camera = {"encoding": "disparity", "focal_px": 2262.52, "baseline_m": 0.209313}
    depth = metres(np.array([[0, 1], [257, 12801]], np.uint16), unit="cityscapes", **camera)
    assert np.isnan(depth[0]).all()  # no measurement, and infinitely far
    np.testing.assert_allclose(depth[1], [473.574849, 9.47149697], rtol=1e-6)
    plain = metres(np.array([[50.0, 10.0]]), unit=1.0, **camera)
    np.testing.assert_allclose(plain, [[9.47149697, 47.3574849]], rtol=1e-6)


def test_ray_distance_becomes_planar_depth() -> None:
    # a wall 2 m away, seen by a camera whose field of view is 90 degrees: f = width / 2
    height, width, focal_px = 4, 6, 3.0
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    points = np.stack([(u - 2.5) / focal_px * 2, (v - 1.5) / focal_px * 2, np.full((height, width), 2.0)])
    distance = np.sqrt((points**2).sum(0))
    assert distance.max() > 2.5
    np.testing.assert_allclose(metres(distance, unit="m", distance="ray", focal_px=focal_px), 2, rtol=1e-6)
    off = np.sqrt(((np.stack([(u - 1) / 3, (v - 0) / 3, np.ones((height, width))])) ** 2).sum(0))
    np.testing.assert_allclose(
        metres(off, unit="m", distance="ray", focal_px=focal_px, centre_px=(1, 0)), 1, rtol=1e-6
    )


def test_hypersims_own_numbers() -> None:
    # 1024 x 768, focal length 886.81 px, as its authors' conversion has them
    rows = np.linspace(-0.5 * 768 + 0.5, 0.5 * 768 - 0.5, 768)[:, None]
    columns = np.linspace(-0.5 * 1024 + 0.5, 0.5 * 1024 - 0.5, 1024)[None, :]
    distance = np.random.default_rng(0).uniform(1, 9, (768, 1024))
    planar = distance / np.sqrt(columns**2 + rows**2 + 886.81**2) * 886.81
    read = metres(distance.astype(np.float16), unit="m", distance="ray", focal_px=886.81)
    np.testing.assert_allclose(read, planar, rtol=1e-3)


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf"), (-2.0, "negative")]
)
def test_what_is_no_depth_is_refused_unless_it_is_said_to_mean_none(value: float, word: str) -> None:
    array = np.ones((3, 4))
    array[1, 2] = value
    said = refused(array, unit="m", invalid=0)
    assert said.reason == "bad_depth"
    assert "row 1, column 2" in said.detail
    assert word in said.remedy
    for listed in (word, [0, word]):
        depth = metres(array, unit="m", invalid=listed)
        assert np.isnan(depth[1, 2])
        assert np.nansum(depth) == 11


def test_nan_means_no_measurement_by_default_and_other_oddities_do_not() -> None:
    assert np.isnan(metres(np.array([[np.nan, 1.0]]), unit="m")).tolist() == [[True, False]]
    for value in (np.inf, -1.0):
        assert refused(np.array([[value, 1.0]]), unit="m").reason == "bad_depth"
    assert refused(np.array([[-1, 1]], np.int16), unit="mm").reason == "bad_depth"


def test_listed_values_mean_none_and_zero_always_does() -> None:
    array = np.array([[0, 65535, 7]], np.uint16)
    assert np.isnan(metres(array, unit="mm", invalid=65535)).tolist() == [[True, True, False]]
    assert np.isnan(metres(array, unit="mm", invalid=[65535, 7])).all()
    assert np.isnan(metres(np.array([[-1.0, 0.0, 2.0]]), unit="m", invalid=-1)).tolist() == [
        [True, True, False]
    ]


def test_the_lossy_and_the_colourful_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(stream, "JPEG")
    with pytest.raises(Refused) as caught:
        depth_m(decode_picture(stream.getvalue(), "d.jpg"), depth_reading(DepthSection(unit="mm")))
    assert caught.value.reason == "lossy_depth"
    assert refused(np.zeros((4, 4, 3), np.uint8), unit="mm").reason == "wrong_channels"
    assert refused(np.zeros((4, 4), bool), unit="mm").reason == "wrong_channels"
    assert metres(np.ones((4, 4, 1), np.float32), unit="m").shape == (4, 4)


def test_big_endian_and_half_floats_are_read() -> None:
    expected = [[1.5, 2.0]]
    for kind in (">u2", ">i4", "<u4"):
        np.testing.assert_allclose(metres(np.array([[1500, 2000]], kind), unit="mm"), expected)
    for kind in (">f8", "<f2", ">f4"):
        np.testing.assert_allclose(metres(np.array([[1.5, 2.0]], kind), unit="m"), expected)


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4), st.sampled_from(["mm", "tum", "kitti"]))
@settings(deadline=None, max_examples=30)
def test_the_table_of_integers_gives_what_the_formula_gives(values: list[int], unit: str) -> None:
    stored = np.array(values, np.uint16).reshape(2, 2)
    np.testing.assert_array_equal(metres(stored, unit=unit), metres(stored.astype(np.int64), unit=unit))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"unit": "cityscapes"}, "encoding: disparity"),
        ({"unit": "mm", "encoding": "disparity", "focal_px": 1, "baseline_m": 1}, "is a length"),
        ({"unit": 1, "encoding": "disparity"}, "needs focal_px and baseline_m"),
        ({"unit": "m", "distance": "ray"}, "needs focal_px"),
        ({"unit": "m", "invalid": "never"}, "invalid"),
    ],
)
def test_a_section_that_does_not_hold_together_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DepthSection(**section)


def test_the_scale_of_lossless_pngs_is_the_unit_where_depth_is_a_multiple_of_it() -> None:
    assert depth_reading(DepthSection(unit="tum")).scale_m == 1 / 5000
    assert depth_reading(DepthSection(unit="mm", encoding="sunrgbd")).scale_m == 0.001
    assert depth_reading(DepthSection(unit="kitti", distance="ray", focal_px=5)).scale_m == 0.001
