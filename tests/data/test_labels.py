"""Stored labels become class indices, or are refused."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.pictures import SegSection
from pipeline.data.pictures.classes import label_reading
from pipeline.data.pictures.files import Picture, decode_picture, picture_of
from pipeline.data.pictures.labels import class_indices
from pipeline.data.refusal import Refused
from pipeline.errors import InputError

NAMES = ("floor", "cup", "box")


def png(array: Any, kind: str = "PNG", palette: Any = None, **options: Any) -> Picture:
    image = Image.fromarray(np.asarray(array))
    if palette is not None:
        image.putpalette([channel for colour in palette for channel in colour])
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return decode_picture(stream.getvalue(), "seg.png")


def read(picture: Picture, names: tuple[str, ...] | None = None, **section: Any) -> list[list[int]]:
    reading, _ = label_reading(SegSection(**section), names)
    indices = class_indices(picture, reading)
    assert indices.dtype == np.uint8
    return indices.tolist()


def refused(picture: Picture, names: tuple[str, ...] | None = NAMES, **section: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read(picture, names, **section)
    assert picture.name in caught.value.detail
    assert caught.value.remedy
    return caught.value


def test_grey_pngs_hold_indices_and_255_is_no_label() -> None:
    stored = np.array([[0, 1], [2, 255]], np.uint8)
    assert read(png(stored), NAMES) == [[0, 1], [2, 255]]
    assert read(png(stored)) == [[0, 1], [2, 255]]


def test_palette_pngs_hold_indices_and_their_colours_do_not_count() -> None:
    colours = [(n, 255 - n, 7) for n in range(256)]
    picture = png(np.array([[0, 1], [2, 255]], np.uint8), palette=colours)
    assert picture.mode == "P"
    assert read(picture, NAMES) == [[0, 1], [2, 255]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pngs_of_few_bits_hold_the_indices_they_were_given(bits: int) -> None:
    # Pillow stretches grey of 2 and 4 bits to 0..255; the labels 0..3 would become 0, 85, 170, 255
    stored = np.arange(4, dtype=np.uint8).reshape(2, 2) % 2**bits
    stream = io.BytesIO()
    width = height = 2
    rows = [0] * height
    for row in range(height):
        for column in range(width):
            rows[row] |= int(stored[row, column]) << (8 - bits * (column + 1))
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    stream.write(b"\x89PNG\r\n\x1a\n")
    stream.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)))
    stream.write(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes([row]) for row in rows))))
    stream.write(chunk(b"IEND", b""))
    assert read(decode_picture(stream.getvalue(), "few.png")) == stored.tolist()


def test_void_values_of_any_type_become_255() -> None:
    assert read(png(np.array([[0, 1], [2, 0]], np.uint8)), NAMES, ignore=0) == [[255, 1], [2, 255]]
    assert read(picture_of(np.array([[-1, 1], [9, 255]]), "seg"), NAMES, ignore=[-1, 9, 255]) == [
        [255, 1],
        [255, 255],
    ]
    wide = np.array([[65535, 1]], np.uint16)
    assert read(png(wide), NAMES, ignore=65535) == [[255, 1]]


def test_instance_ids_are_divided_into_classes() -> None:
    ids = np.array([[2000, 2017], [1001, 999]], np.uint16)
    assert read(png(ids), NAMES, divisor=1000) == [[2, 2], [1, 0]]
    assert read(picture_of(ids.astype(np.int64) * 100, "seg"), NAMES, divisor=100_000) == [[2, 2], [1, 0]]
    wrong = refused(png(ids + 1000), divisor=1000)
    assert wrong.reason == "class_out_of_range"
    assert "3000 // 1000 is no class; they are 0..2" in wrong.detail


def test_colours_are_classes_when_they_are_said_to_be() -> None:
    colours = {"floor": (0, 0, 0), "cup": (255, 0, 0), "void": (9, 9, 9)}
    array = np.array([[[255, 0, 0], [0, 0, 0]], [[9, 9, 9], [255, 0, 0]]], np.uint8)
    assert read(png(array), colours=colours, ignore="void") == [[1, 0], [255, 1]]
    assert label_reading(SegSection(colours=colours, ignore="void"), None)[1] == ("floor", "cup")
    indexed = png(np.array([[1, 0], [2, 1]], np.uint8), palette=list(colours.values()))
    assert read(indexed, colours=colours, ignore="void") == [[1, 0], [255, 1]]
    opaque = np.concatenate([array, np.full((2, 2, 1), 255, np.uint8)], axis=2)
    assert read(png(opaque), colours=colours, ignore="void") == [[1, 0], [255, 1]]
    assert read(png(array), ("cup", "void", "floor"), colours=colours) == [[0, 2], [1, 0]]


def test_a_colour_of_no_class_is_refused_by_its_numbers() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    array[1, 1] = (1, 2, 3)
    said = refused(png(array), None, colours={"floor": (0, 0, 0)})
    assert said.reason == "class_out_of_range"
    assert "[1, 2, 3]" in said.detail
    assert refused(png(array[..., 0]), None, colours={"floor": (0, 0, 0)}).reason == "wrong_channels"


def test_classes_are_merged_in_the_order_written_and_the_rest_is_kept() -> None:
    section = {"merge": {"dishes": ["cup", 3]}, "ignore": [255, "wall"]}
    names = ("floor", "cup", "box", "plate", "wall")
    reading, new = label_reading(SegSection(**section), names)
    assert new == ("dishes", "floor", "box")
    stored = picture_of(np.array([[0, 1, 2], [3, 4, 255]], np.uint8), "seg")
    assert class_indices(stored, reading).tolist() == [[1, 0, 2], [0, 255, 255]]


def test_what_is_not_merged_may_lose_its_label() -> None:
    stored = picture_of(np.array([[7, 26], [40, 27]], np.uint8), "seg")
    merge = {"road": [7], "car": [26, 27]}
    assert read(stored, None, merge=merge, rest="ignore") == [[0, 1], [255, 1]]
    assert refused(stored, None, merge=merge).reason == "class_out_of_range"
    names = tuple(str(n) for n in range(34))
    assert refused(stored, names, merge=merge, rest="ignore").reason == "class_out_of_range"
    assert label_reading(SegSection(merge=merge, rest="ignore"), names)[1] == ("road", "car")


def test_more_than_255_classes_can_be_merged_into_fewer() -> None:
    names = tuple(f"class {n}" for n in range(894))
    with pytest.raises(InputError, match=r"894 classes.*merge"):
        label_reading(SegSection(), names)
    merge = {"near": [f"class {n}" for n in range(800)], "far": list(range(800, 894))}
    stored = picture_of(np.array([[0, 799], [800, 893]], np.uint16), "seg")
    assert read(stored, names, merge=merge) == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"ignore": ["cups"]},
            r"seg\.ignore: 'cups' is no class; did you mean 'cup'\? they are: floor, cup, box",
        ),
        ({"merge": {"a": ["mug"]}}, r"seg\.merge\.a: 'mug' is no class"),
        ({"merge": {"a": ["cup"], "b": [1]}}, r"1 is in 'a' and 'b'"),
        ({"merge": {"a": [255]}, "ignore": 255}, r"means no label"),
        ({"merge": {"box": ["cup"]}}, r"'box' is named twice"),
        ({"colours": {"cup": (1, 1, 1), "box": (1, 1, 1)}}, r"same colour"),
        ({"colours": {"cups": (1, 1, 1)}}, r"seg\.colours: 'cups' is no class; did you mean 'cup'"),
    ],
)
def test_what_names_no_class_or_has_two_meanings_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        label_reading(SegSection(**section), NAMES)


def test_names_without_classes_are_refused_with_a_remedy() -> None:
    with pytest.raises(InputError, match="no classes are named; give stored values"):
        label_reading(SegSection(ignore="void"), None)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4), 3, np.uint8), "class_out_of_range"),
        (np.full((4, 4), -1, np.int64), "class_out_of_range"),
        (np.full((4, 4), 70_000, np.int64), "class_out_of_range"),
        (np.full((4, 4), 257, np.uint16), "class_out_of_range"),
        (np.zeros((4, 4, 3), np.uint8), "colour_labels"),
        (np.zeros((4, 4, 4), np.uint8), "colour_labels"),
        (np.zeros((4, 4, 2), np.uint8), "wrong_channels"),
        (np.zeros((4, 4), np.float32), "float_labels"),
    ],
)
def test_each_mistake_has_its_reason(array: np.ndarray, reason: str) -> None:
    assert refused(picture_of(array, "seg")).reason == reason


def test_labels_out_of_range_without_names_are_those_that_8_bits_do_not_hold() -> None:
    assert refused(picture_of(np.full((2, 2), 256), "seg"), None).reason == "class_out_of_range"
    assert read(picture_of(np.full((2, 2), 254), "seg")) == [[254, 254], [254, 254]]


def test_jpegs_are_refused_as_labels() -> None:
    stored = np.zeros((8, 8), np.uint8)
    assert refused(png(stored, "JPEG")).reason == "lossy_labels"
    assert refused(png(stored, "TIFF", compression="jpeg")).reason == "lossy_labels"
    assert read(png(stored, "TIFF", compression="tiff_lzw"), NAMES) == stored.tolist()
