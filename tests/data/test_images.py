"""Cutting and resizing never makes up a depth or a label."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.pictures.images import MOST_PIXELS, Square, read_depth, read_rgb, read_seg
from pipeline.data.refusal import Refused

SIDES = st.integers(9, 70)


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


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


def test_depth_becomes_metres_and_what_is_no_measurement_nan(tmp_path: Path) -> None:
    stored = save(tmp_path / "depth.png", np.array([[0, 1000], [65535, 250]], np.uint16))
    depth = read_depth(stored, 0.001, 0.0)
    np.testing.assert_allclose(depth, [[np.nan, 1.0], [65.535, 0.25]], rtol=1e-6)
    np.save(tmp_path / "depth.npy", np.array([[-1.0, 2.0], [np.inf, np.nan]], np.float64))
    np.testing.assert_allclose(
        read_depth(tmp_path / "depth.npy", 1.0, 0.0), [[np.nan, 2.0], [np.nan, np.nan]]
    )
    assert np.isnan(read_depth(stored, 0.001, 65535.0)).tolist() == [[True, False], [True, False]]


def test_palette_labels_are_indices_and_palette_rgb_is_colour(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 255]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([v for n in range(256) for v in (n, 255 - n, 7)])
    # convert("P") keeps grey levels as indices
    image.save(tmp_path / "palette.png")
    stored = np.asarray(Image.open(tmp_path / "palette.png"))
    np.testing.assert_array_equal(read_seg(tmp_path / "palette.png", 255, 3), stored)
    np.testing.assert_array_equal(
        read_rgb(tmp_path / "palette.png")[0, 1], [stored[0, 1], 255 - stored[0, 1], 7]
    )


def test_the_stored_ignore_value_becomes_255(tmp_path: Path) -> None:
    stored = save(tmp_path / "seg.png", np.array([[0, 1], [2, 0]], np.uint8))
    assert read_seg(stored, 0, 3).tolist() == [[255, 1], [2, 255]]


def test_opaque_transparency_is_dropped(tmp_path: Path) -> None:
    opaque = np.full((4, 4, 4), 255, np.uint8)
    assert read_rgb(save(tmp_path / "opaque.png", opaque)).shape == (4, 4, 3)
    opaque[0, 0, 3] = 254
    with pytest.raises(Refused) as refused:
        read_rgb(save(tmp_path / "clear.png", opaque))
    assert refused.value.reason == "wrong_channels"


def reason(read: object, path: Path, *arguments: object) -> str:
    with pytest.raises(Refused) as refused:
        read(path, *arguments)  # type: ignore[operator]
    assert path.name in refused.value.detail
    assert refused.value.remedy
    return refused.value.reason


def test_wrong_channels_are_refused(tmp_path: Path) -> None:
    grey, colour = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
    assert reason(read_rgb, save(tmp_path / "grey.png", grey)) == "wrong_channels"
    assert reason(read_depth, save(tmp_path / "colour.png", colour), 0.001, 0.0) == "wrong_channels"
    assert reason(read_seg, tmp_path / "colour.png", 255, 3) == "wrong_channels"
    np.save(tmp_path / "floats.npy", np.zeros((4, 4, 3), np.float32))
    assert reason(read_rgb, tmp_path / "floats.npy") == "wrong_channels"
    np.save(tmp_path / "fractions.npy", np.zeros((4, 4), np.float32))
    assert reason(read_seg, tmp_path / "fractions.npy", 255, 3) == "wrong_channels"


def test_labels_that_are_no_class_are_refused(tmp_path: Path) -> None:
    seg = np.zeros((4, 4), np.uint8)
    seg[1, 1] = 3
    assert reason(read_seg, save(tmp_path / "three.png", seg), 255, 3) == "class_out_of_range"
    assert read_seg(tmp_path / "three.png", 255, 4)[1, 1] == 3
    assert read_seg(tmp_path / "three.png", 255, None)[1, 1] == 3
    np.save(tmp_path / "minus.npy", np.full((2, 2), -1, np.int64))
    assert reason(read_seg, tmp_path / "minus.npy", 255, 3) == "class_out_of_range"
    np.save(tmp_path / "wide.npy", np.full((2, 2), 256 + 1, np.uint16))
    assert reason(read_seg, tmp_path / "wide.npy", 255, None) == "class_out_of_range"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"picture{suffix}"
    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    np.save(path, array) if suffix == ".npy" else Image.fromarray(array).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert reason(read_rgb, path) == "unreadable"


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_damage_is_refused_or_read_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    array = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    suffix = data.draw(st.sampled_from([".png", ".jpg", ".npy"]))
    path = directory / f"picture{suffix}"
    np.save(path, array) if suffix == ".npy" else Image.fromarray(array).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        picture = read_rgb(path)
    except Refused:
        return
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_pickled_arrays_are_refused_unopened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (opened,)

    np.save(tmp_path / "hostile.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    assert reason(read_depth, tmp_path / "hostile.npy", 0.001, 0.0) == "unreadable"
    assert not opened.exists()


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    side = int(MOST_PIXELS**0.5) + 1
    for factor in (1, 4):  # PIL itself refuses the second
        header = b"IHDR" + struct.pack(">IIBBBBB", factor * side, factor * side, 8, 0, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        path = tmp_path / f"large_{factor}.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 0) + b"IDAT"
        )
        assert reason(read_seg, path, 255, 2) == "too_large"


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "claims.npy", np.zeros((10, 10), np.float32))
    content = (tmp_path / "claims.npy").read_bytes()
    (tmp_path / "claims.npy").write_bytes(content.replace(b"(10, 10)", b"(99999, 99999)", 1)[: len(content)])
    assert reason(read_depth, tmp_path / "claims.npy", 0.001, 0.0) in ("unreadable", "too_large")


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "really.gif")
    (tmp_path / "really.gif").rename(tmp_path / "picture.png")
    assert reason(read_rgb, tmp_path / "picture.png") == "unreadable"
