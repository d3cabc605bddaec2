"""A folder of deliberately broken files: each refused for its own right reason, none of the good ones."""

import io
import pickle
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_folder import HEIGHT, WIDTH, depth_mm, folder_config, labels, make_folder, rgb_picture
from PIL import Image

from pipeline.data.modality import Sample
from pipeline.data.refusal import Refusal
from pipeline.data.sources import open_source

SHAPE = (HEIGHT, WIDTH)


def saved(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def with_one(value: float) -> np.ndarray:
    depth = np.ones(SHAPE, np.float32)
    depth[5, 6] = value
    return depth


def bomb() -> bytes:
    """A few bytes that claim to be 30,000 x 30,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + bytes(4)
        + b"IDAT"
    )


def flipped(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 255]) + content[1001:]


def turned_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


class Hostile:
    """Leaves a file behind if it is unpickled."""

    opened: Path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.opened,)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 84977\n"
RGB, GREY = rgb_picture(0), rgb_picture(0)[..., 0]

BROKEN: list[tuple[str, str, str, Callable[[], bytes]]] = [
    ("truncated", "rgb", "png", lambda: saved(RGB)[:700]),
    ("truncated", "rgb", "jpg", lambda: saved(RGB, "JPEG")[:700]),
    ("truncated", "depth", "npy", lambda: npy(with_one(1))[:-1]),
    ("truncated", "seg", "png", lambda: b""),
    ("unreadable", "rgb", "png", lambda: flipped(saved(RGB))),
    ("not_an_image", "rgb", "png", lambda: b"<html>404 Not Found</html>"),
    ("not_an_image", "seg", "png", lambda: saved(GREY, "GIF")),
    ("lfs_pointer", "rgb", "png", lambda: POINTER),
    ("lfs_pointer", "depth", "npy", lambda: POINTER),
    ("size_mismatch", "rgb", "png", lambda: saved(rgb_picture(0, 24, 32))),
    ("size_mismatch", "seg", "png", lambda: saved(labels(0).T)),
    ("bad_depth", "depth", "npy", lambda: npy(with_one(np.inf))),
    ("bad_depth", "depth", "npy", lambda: npy(with_one(-1))),
    ("bad_depth", "depth", "npy", lambda: npy(with_one(-1).astype(np.int16))),
    ("no_valid_depth", "depth", "png", lambda: saved(np.zeros(SHAPE, np.uint16))),
    ("no_valid_depth", "depth", "npy", lambda: npy(np.full(SHAPE, np.nan))),
    ("lossy_depth", "depth", "jpg", lambda: saved(GREY, "JPEG")),
    ("class_out_of_range", "seg", "png", lambda: saved(np.full(SHAPE, 3, np.uint8))),
    ("class_out_of_range", "seg", "npy", lambda: npy(np.full(SHAPE, -1))),
    ("colour_labels", "seg", "png", lambda: saved(RGB)),
    ("lossy_labels", "seg", "jpg", lambda: saved(labels(0), "JPEG")),
    ("lossy_labels", "seg", "png", lambda: saved(labels(0), "JPEG")),  # whatever its name says
    ("float_labels", "seg", "npy", lambda: npy(np.zeros(SHAPE, np.float32))),
    ("wrong_channels", "rgb", "png", lambda: saved(GREY)),
    ("wrong_channels", "rgb", "png", lambda: saved(np.dstack([RGB, GREY]))),
    ("wrong_channels", "rgb", "npy", lambda: npy(RGB / 255)),
    ("wrong_channels", "depth", "png", lambda: saved(RGB)),
    ("wrong_channels", "depth", "npy", lambda: npy(np.ones((3, *SHAPE)))),
    ("wrong_channels", "seg", "png", lambda: saved(np.dstack([GREY, GREY]))),
    ("too_large", "rgb", "png", bomb),
    ("too_large", "depth", "npy", lambda: npy(with_one(1)).replace(b"(48, 64)", b"(99999, 99999)")),
    ("pickle", "depth", "npy", lambda: npy(np.array([[Hostile()]], dtype=object))),
    ("pickle", "rgb", "npy", lambda: pickle.dumps(Hostile())),
    ("orientation", "rgb", "jpg", lambda: saved(RGB, "JPEG", exif=turned_exif(6))),
]


def test_every_broken_file_is_refused_for_its_own_reason_and_no_good_one(tmp_path: Path) -> None:
    Hostile.opened = tmp_path / "opened"
    good = 6
    root = make_folder(tmp_path / "in", count=good + len(BROKEN) + 2)
    expected = {}
    for number, (reason, modality, ending, content) in enumerate(BROKEN, good):
        (root / modality / f"frame_{number}.png").unlink()
        (root / modality / f"frame_{number}.{ending}").write_bytes(content())
        expected[f"frame_{number}"] = reason
    outside = tmp_path / "outside.png"
    outside.write_bytes(saved(RGB))
    linked = root / "rgb" / f"frame_{good + len(BROKEN)}.png"
    linked.unlink()
    linked.symlink_to(outside)
    expected[linked.stem] = "link"
    locked = root / "seg" / f"frame_{good + len(BROKEN) + 1}.png"
    locked.unlink()
    locked.symlink_to(root)  # a link to a folder is no file: the sample lacks its labels
    catalogue = open_source(folder_config(root))
    found = list(catalogue.load(catalogue.entries[:]))
    assert [str(entry) for entry in catalogue.entries[:]] == [f"frame_{n}" for n in range(len(found))]
    refused = {item.origin: item for item in found if isinstance(item, Refusal)}
    assert {origin: item.reason for origin, item in refused.items()} == expected
    assert all(item.detail and item.remedy for item in refused.values())
    kept = [item for item in found if isinstance(item, Sample)]
    assert [item.origin for item in kept] == [*(f"frame_{n}" for n in range(good)), locked.stem]
    assert kept[-1].seg is None
    assert not Hostile.opened.exists()
    for item in kept[:good]:
        assert item.depth is not None
        metres = np.unique(item.depth[~np.isnan(item.depth)])
        assert np.isin(metres, depth_mm(int(item.key.removeprefix("frame_"))) / np.float32(1000)).all()


def test_the_reasons_documented_are_those_given() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for reason in {reason for reason, *_ in BROKEN} | {"link"}:
        assert re.search(rf"^\|.*`{reason}`.*\|", documented, re.MULTILINE), reason


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_turns_all_modalities_alike_when_it_is_applied(tmp_path: Path, orientation: int) -> None:
    upright, turned = make_folder(tmp_path / "upright", count=2), make_folder(tmp_path / "turned", count=2)
    flips = Image.Transpose
    back = {  # what a viewer undoes when it shows the picture
        2: flips.FLIP_LEFT_RIGHT,
        3: flips.ROTATE_180,
        4: flips.FLIP_TOP_BOTTOM,
        5: flips.TRANSPOSE,
        6: flips.ROTATE_90,
        7: flips.TRANSVERSE,
        8: flips.ROTATE_270,
    }[orientation]
    for modality in ("rgb", "depth", "seg"):
        for path in (turned / modality).iterdir():
            with Image.open(path) as image:
                stored = image.transpose(back)
            stored.save(path, **({"exif": turned_exif(orientation)} if modality == "rgb" else {}))
    (expected, *_), (found, *_) = (
        list(catalogue.load(catalogue.entries[:]))
        for catalogue in (
            open_source(folder_config(upright)),
            open_source(folder_config(turned, data={"exif": "apply"})),
        )
    )
    for modality in ("rgb", "depth", "seg"):
        np.testing.assert_array_equal(getattr(found, modality), getattr(expected, modality))
    ignored = open_source(folder_config(turned, data={"exif": "ignore"}))
    (as_stored, *_) = ignored.load(ignored.entries[:1])
    assert isinstance(as_stored, Sample)
    assert not np.array_equal(as_stored.rgb, expected.rgb)  # type: ignore[union-attr]
    refused = open_source(folder_config(turned))
    (refusal, *_) = refused.load(refused.entries[:1])
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "orientation"
    assert "data.exif" in refusal.remedy


def test_modalities_that_want_to_be_turned_differently_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=2)
    for modality, orientation in (("rgb", 3), ("seg", 2)):
        path = root / modality / "frame_0.png"
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=turned_exif(orientation))
    catalogue = open_source(folder_config(root, data={"exif": "apply"}))
    refusal, good = catalogue.load(catalogue.entries[:])
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "orientation"
    assert "rgb has EXIF orientation 3, seg has EXIF orientation 2" in refusal.detail
    assert isinstance(good, Sample)


def test_labels_are_resized_as_the_config_says(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=2)
    striped = np.zeros(SHAPE, np.uint8)
    striped[:, 9::3] = 1  # the middle one of every three columns of the square 48 x 48 from column 8
    Image.fromarray(striped).save(root / "seg" / "frame_0.png")
    for resize, label in (("nearest", 1), ("majority", 0)):
        config = folder_config(root, data={"seg_resize": resize})
        catalogue = open_source(config.model_copy(update={"image_size": 16}))
        (sample, *_) = catalogue.load(catalogue.entries[:1])
        assert isinstance(sample, Sample)
        assert sample.seg is not None
        assert np.unique(sample.seg).tolist() == [label], resize
