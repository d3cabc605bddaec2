"""Bytes become a picture, or are refused for what they are; nothing in them is executed."""

import io
import pickle
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.pictures.files import Picture, decode_picture, picture_of, read_picture
from pipeline.data.pictures.picture import MOST_PIXELS
from pipeline.data.pictures.rgb import colours
from pipeline.data.refusal import Refused
from pipeline.errors import InputError

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)


def content_of(array: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    match kind:
        case "npy":
            np.save(stream, array)
        case "exr":
            import OpenEXR

            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            with OpenEXR.File(header, array if isinstance(array, dict) else {"Z": array}) as file:
                file.write(stream)
        case _:
            Image.fromarray(array).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind), **options)
    return stream.getvalue()


def reason(content: bytes, name: str = "picture") -> str:
    with pytest.raises(Refused) as refused:
        decode_picture(content, name)
    assert name in refused.value.detail
    assert refused.value.remedy
    return refused.value.reason


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
@pytest.mark.parametrize(
    "array", [COLOUR, COLOUR[..., 0], COLOUR[..., 0].astype(np.uint16) * 256], ids=["rgb", "grey", "16 bits"]
)
def test_lossless_formats_give_back_the_numbers(kind: str, array: np.ndarray) -> None:
    picture = decode_picture(content_of(array, kind), "x")
    np.testing.assert_array_equal(picture.array, array)
    assert picture.format == {"tif": "TIFF"}.get(kind, kind.upper())
    assert not picture.lossy
    assert picture.orientation == 1


def test_arrays_share_the_memory_of_their_bytes_and_any_order_is_read() -> None:
    for array in (np.asfortranarray(COLOUR[..., 0]), COLOUR[..., 0].astype(">f4")):
        picture = decode_picture(content_of(array, "npy"), "x")
        np.testing.assert_array_equal(picture.array, array)
        assert picture.array.base is not None


def test_floats_of_an_exr_are_read_from_the_channel_that_is_depth() -> None:
    depth = np.random.default_rng(0).uniform(1, 5, (6, 8)).astype(np.float32)
    alone = decode_picture(content_of(depth, "exr"), "x.exr")
    np.testing.assert_array_equal(alone.array, depth)
    beside = {"Z": depth, "R": depth * 0, "G": depth * 0, "B": depth * 0}
    np.testing.assert_array_equal(decode_picture(content_of(beside, "exr"), "x.exr").array, depth)
    only = {"R": depth * 0, "G": depth * 0, "B": depth * 0}
    assert decode_picture(content_of(only, "exr"), "x.exr").array.shape == (6, 8, 3)
    half = decode_picture(content_of(depth.astype(np.float16), "exr"), "x.exr")
    np.testing.assert_allclose(half.array, depth, rtol=1e-3)


def test_an_exr_that_loses_numbers_is_known_to() -> None:
    import OpenEXR

    stream = io.BytesIO()
    header = {"compression": OpenEXR.DWAA_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Z": np.ones((32, 32), np.float32)}) as file:
        file.write(stream)
    assert decode_picture(stream.getvalue(), "x.exr").lossy
    assert not decode_picture(content_of(np.ones((4, 4), np.float32), "exr"), "x.exr").lossy


def test_without_the_package_an_exr_is_refused_by_the_name_of_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = content_of(np.ones((4, 4), np.float32), "exr")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(InputError, match=r"pip install 'triptych\[exr\]'"):
        decode_picture(content, "x.exr")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_orientation_is_told_and_the_array_is_as_stored(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = COLOUR[:20]
    picture = decode_picture(content_of(array, kind, exif=exif), "x")
    assert picture.orientation == orientation
    assert picture.array.shape == array.shape
    if kind != "jpg":
        np.testing.assert_array_equal(picture.array, array)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "npy", "exr"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused_as_truncated(kind: str, keep: float) -> None:
    array = COLOUR if kind != "exr" else np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    content = content_of(array, kind)
    known = {"truncated"} if kind in ("png", "jpg", "npy") else {"truncated", "unreadable"}
    assert reason(content[: int(len(content) * keep)]) in known


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_any_damage_is_refused_or_read_and_never_crashes(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["png", "jpg", "npy", "tif"]))
    content = bytearray(content_of(COLOUR[:12, :12], kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode_picture(bytes(content), "x")
        colours(picture)
    except Refused:
        return
    assert isinstance(picture, Picture)


def test_what_is_no_picture_is_refused_for_what_it_is() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert reason(pointer, "0001.png") == "lfs_pointer"
    assert reason(b"GIF89a" + bytes(40)) == "not_an_image"
    assert reason(b"<html>Not found</html>") == "not_an_image"
    assert reason(b"") == "truncated"
    damaged = bytearray(content_of(COLOUR, "png"))
    damaged[2000] ^= 255
    assert reason(bytes(damaged)) == "unreadable"


def test_pickles_and_arrays_of_objects_are_refused_unopened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (opened,)

    stream = io.BytesIO()
    np.save(stream, np.array([[Hostile()]], dtype=object), allow_pickle=True)
    assert reason(stream.getvalue()) == "pickle"
    assert reason(pickle.dumps(Hostile())) == "pickle"
    with pytest.raises(Refused) as refused:
        picture_of(np.array([[Hostile()]], dtype=object), "array")
    assert refused.value.reason == "pickle"
    assert not opened.exists()


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    side = int(MOST_PIXELS**0.5) + 1
    for factor in (1, 4):  # Pillow itself refuses the second
        header = b"IHDR" + struct.pack(">IIBBBBB", factor * side, factor * side, 8, 0, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum
        assert reason(start + struct.pack(">I", 0) + b"IDAT") == "too_large"
    claims = content_of(np.zeros((10, 10), np.float32), "npy").replace(b"(10, 10)", b"(99999, 99999)", 1)
    assert reason(claims) == "too_large"
    claims = content_of(np.zeros((10, 10), np.float32), "npy").replace(b"(10, 10)", b"(999, 999)", 1)
    assert reason(claims) == "truncated"


def test_a_bomb_of_zeros_is_refused_by_its_header() -> None:
    wide = np.zeros((1, MOST_PIXELS + 1), np.uint8)
    content = content_of(wide, "png")
    assert len(content) < 100_000
    assert reason(content) == "too_large"


def test_an_exr_that_claims_to_be_huge_is_refused() -> None:
    content = content_of(np.zeros((4, 4), np.float32), "exr")
    corner = struct.pack("<4i", 0, 0, 3, 3)
    assert content.count(corner) == 2
    assert reason(content.replace(corner, struct.pack("<4i", 0, 0, 99_999, 99_999))) in (
        "too_large",
        "unreadable",
    )


def test_shapes_and_types_that_are_no_picture_are_refused() -> None:
    for array in (
        np.zeros(5),
        np.zeros((2, 2, 2, 2)),
        np.zeros((3, 40, 40)),
        np.zeros((4, 4), complex),
        np.array([["a", "b"]]),
    ):
        assert reason(content_of(array, "npy")) == "wrong_channels"
    assert reason(content_of(np.zeros((0, 4)), "npy")) == "unreadable"


def colours_reason(picture: Picture) -> str:
    with pytest.raises(Refused) as refused:
        colours(picture)
    return refused.value.reason


def test_rgb_is_three_channels_of_eight_bits() -> None:
    for kind in ("png", "tif", "npy"):
        np.testing.assert_array_equal(colours(decode_picture(content_of(COLOUR, kind), "x")), COLOUR)
    assert colours(decode_picture(content_of(COLOUR, "jpg"), "x")).shape == COLOUR.shape
    grey = decode_picture(content_of(COLOUR[..., 0], "png"), "x")
    assert colours_reason(grey) == "wrong_channels"
    assert colours_reason(picture_of(COLOUR / 255, "x")) == "wrong_channels"
    stream = io.BytesIO()
    Image.new("CMYK", (4, 4)).save(stream, "JPEG")
    assert colours_reason(decode_picture(stream.getvalue(), "x")) == "wrong_channels"


def test_opaque_transparency_is_dropped_and_other_is_refused() -> None:
    opaque = np.concatenate([COLOUR, np.full((40, 40, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(colours(decode_picture(content_of(opaque, "png"), "x")), COLOUR)
    opaque[0, 0, 3] = 254
    assert colours_reason(decode_picture(content_of(opaque, "png"), "x")) == "wrong_channels"


def test_palettes_are_colours_where_rgb_belongs() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image.putpalette([10, 20, 30, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    picture = decode_picture(stream.getvalue(), "x")
    assert colours(picture).tolist() == [[[10, 20, 30], [1, 2, 3]], [[4, 5, 6], [7, 8, 9]]]
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=2)
    assert colours_reason(decode_picture(stream.getvalue(), "x")) == "wrong_channels"


def test_colours_of_sixteen_bits_are_refused_rather_than_cut() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    row = b"\0" + struct.pack(">6H", *range(1000, 1600, 100))
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert decode_picture(content, "x").mode == "RGB;16"
    assert colours_reason(decode_picture(content, "x")) == "wrong_channels"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_picture(tmp_path / "missing.png")
    assert refused.value.reason == "unreadable"
    (tmp_path / "there.png").write_bytes(content_of(COLOUR, "png"))
    np.testing.assert_array_equal(read_picture(tmp_path / "there.png").array, COLOUR)
