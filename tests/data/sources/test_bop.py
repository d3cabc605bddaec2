"""BOP scenes: depth with a scale of its own per picture, visible masks joined into one label map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from container_views import check, depth_mm, labels, loaded, only, opened, png, refusals, rgb, write
from PIL import Image

from pipeline.data.modality import Sample
from pipeline.data.sources.bop import Shots
from pipeline.errors import InputError

OBJECTS = {1: 5, 2: 12}
"""Object number by class: cup and box."""


def without_void(number: int) -> np.ndarray:
    """BOP has no unlabelled pixels; these are background here."""
    seg = labels(number)
    return np.where(seg == 255, 0, seg).astype(np.uint8)


def write_scene(folder: Path, numbers: list[int], scale: float = 0.5) -> Path:
    cameras, objects = {}, {}
    for number in numbers:
        name = f"{number:06d}"
        cameras[str(number)] = {"cam_K": [1.0] * 9, "depth_scale": scale}
        write(folder / "rgb" / f"{name}.png", png(rgb(number)))
        write(folder / "depth" / f"{name}.png", png((depth_mm(number) / scale).astype(np.uint16)))
        seg = without_void(number)
        there = [label for label in (2, 1) if (seg == label).any()]
        objects[str(number)] = [{"obj_id": OBJECTS[label], "cam_t_m2c": [0, 0, 1]} for label in there]
        for place, label in enumerate(there):
            mask = np.where(seg == label, 255, 0).astype(np.uint8)
            write(folder / "mask_visib" / f"{name}_{place:06d}.png", png(mask))
    write(folder / "scene_camera.json", json.dumps(cameras).encode())
    write(folder / "scene_gt.json", json.dumps(objects).encode())
    return folder


def source(root: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "bop", "root": str(root), "classes": {5: "cup", 12: "box"}} | changes


def check_scene(sample: Any, number: int) -> None:
    """As the view, but for the pixels that BOP cannot leave unlabelled."""
    assert isinstance(sample, Sample), sample
    assert sample.seg is not None
    np.testing.assert_array_equal(sample.seg, without_void(number)[:, 8:40])
    check(Sample(sample.key, sample.rgb, sample.depth, labels(number)[:, 8:40]), number)


def test_pictures_are_right_in_every_pixel_whatever_their_depth_scale(tmp_path: Path) -> None:
    write_scene(tmp_path / "test/000001", [0, 3, 10], scale=0.5)
    write_scene(tmp_path / "test/000002", [4], scale=0.1)
    catalogue = opened(source(tmp_path))
    assert [str(entry) for entry in catalogue.entries] == [
        "test/000001/000000",
        "test/000001/000003",
        "test/000001/000010",
        "test/000002/000004",
    ]
    assert catalogue.entries[1].key == "test_000001-000003"
    for sample, number in zip(loaded(catalogue), [0, 3, 10, 4], strict=True):
        check_scene(sample, number)
    assert catalogue.class_names == ("background", "cup", "box")
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (pytest.approx(0.0001), False)
    one = opened(source(tmp_path, scenes="test/000001/scene_camera.json"))
    assert (one.depth_scale_m, one.whole_depth) == (pytest.approx(0.0005), True)


def test_objects_without_names_are_numbered_and_background_may_have_no_label(tmp_path: Path) -> None:
    write_scene(tmp_path / "000001", [0, 1])
    catalogue = opened(source(tmp_path, classes={}, background=None))
    assert catalogue.class_names == ("object_5", "object_12")
    sample = loaded(catalogue)[1]
    assert isinstance(sample, Sample)
    assert sample.seg is not None
    expected = np.array([255, 0, 1], np.uint8)[without_void(1)[:, 8:40]]
    np.testing.assert_array_equal(sample.seg, expected)


def test_pixels_of_two_masks_have_no_label(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "000001", [0, 1])
    whole = np.full((32, 48), 255, np.uint8)
    write(folder / "mask_visib/000001_000000.png", png(whole))
    sample = loaded(opened(source(tmp_path)))[1]
    assert isinstance(sample, Sample)
    assert sample.seg is not None
    inside = (without_void(1) == 1)[:, 8:40]
    assert (sample.seg[inside] == 255).all()
    assert (sample.seg[~inside] == 2).all()


def test_picture_without_objects_is_background_and_without_annotation_lacks_labels(
    tmp_path: Path,
) -> None:
    folder = write_scene(tmp_path / "000001", [0, 1, 2])
    objects = json.loads((folder / "scene_gt.json").read_text())
    objects["0"] = []
    del objects["1"]
    (folder / "scene_gt.json").write_text(json.dumps(objects))
    (folder / "rgb/000001.png").unlink()
    first, second, third = loaded(opened(source(tmp_path)))
    assert isinstance(first, Sample)
    assert first.seg is not None
    assert (first.seg == 0).all()
    check(second, 1, leave_out=["rgb", "seg"])
    check_scene(third, 2)


def test_names_of_folders_tell_the_splits(tmp_path: Path) -> None:
    write_scene(tmp_path / "train_pbr/000000", [0, 1])
    write_scene(tmp_path / "test/000000", [2])
    catalogue = opened(source(tmp_path))
    assert catalogue.splits == ["test", "train", "train"]
    write_scene(tmp_path / "train_real/000000", [3])
    chosen = {"train": "train_real/*", "test": "train_pbr/*"}
    catalogue = opened(source(tmp_path, splits=chosen))
    assert catalogue.splits == ["test", "test", "train"]


def test_files_that_are_missing_damaged_or_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "data/000001", [0, 1, 2, 3, 4])
    (folder / "mask_visib/000000_000001.png").unlink(missing_ok=True)
    (folder / "mask_visib/000000_000000.png").unlink()
    write(folder / "mask_visib/000001_000000.png", png(np.zeros((5, 5), np.uint8)))
    write(tmp_path / "secret.png", png(rgb(2)))
    (folder / "rgb/000002.png").unlink()
    (folder / "rgb/000002.png").symlink_to(tmp_path / "secret.png")
    Image.fromarray(rgb(3)[..., 0]).save(folder / "depth/000003.jpg")
    (folder / "depth/000003.png").unlink()
    catalogue = opened(source(tmp_path / "data"))
    assert refusals(catalogue) == {
        "000001/000000": "missing",
        "000001/000001": "size_mismatch",
        "000001/000002": "link",
        "000001/000003": "lossy_depth",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenes": "val/*/scene_camera.json"}, r"data\.source\.scenes: no file matches"),
        ({"scenes": "**/scene_gt.json"}, r"a pattern ends in /scene_camera\.json"),
        ({"classes": {5: "cup"}}, r"object 12 occurs and has no name; the scenes have objects 5, 12"),
        ({"root": "nowhere"}, r"there is no folder nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_scene(tmp_path / "000001", [0, 1])
    with pytest.raises(InputError, match=message):
        opened(source(tmp_path) | changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scene_camera.json", "{", "not a JSON file"),
        ("scene_camera.json", "[]", "a JSON object is expected, not a list"),
        ("scene_camera.json", '{"x": {"depth_scale": 1}}', "'x': not like"),
        ("scene_camera.json", '{"0": {"depth_scale": -1}}', "'0': not like"),
        ("scene_camera.json", "{}", "the 1 scenes have no pictures"),
        ("scene_gt.json", '{"0": [{"obj": 1}]}', "an object has an obj_id from 1"),
        ("scene_gt.json", "{}", r"no scene has a scene_gt\.json with objects; set data\.source\.seg: false"),
    ],
)
def test_malformed_descriptions_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = write_scene(tmp_path / "000001", [0, 1])
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        opened(source(tmp_path))


def test_scene_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "elsewhere/000001", [0, 1])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/000001").symlink_to(tmp_path / "elsewhere/000001")
    with pytest.raises(InputError, match=r"is a link out of"):
        opened(source(tmp_path / "data", scenes="*/scene_camera.json"))


def test_modality_nobody_has_is_refused(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "000001", [0, 1])
    for path in (folder / "rgb").iterdir():
        path.unlink()
    (folder / "rgb").rmdir()
    with pytest.raises(InputError, match=r"no scene has a folder rgb .*set data\.source\.rgb: false"):
        opened(source(tmp_path))
    assert isinstance(only(opened(source(tmp_path, rgb=False))), Sample)


def test_two_hundred_thousand_pictures_take_twenty_bytes_each() -> None:
    count = 200_000
    shots = Shots(
        ("a",), ("a",), np.zeros(count, np.int32), np.arange(count, dtype=np.int32), np.full(count, 0.001)
    )
    assert sum(column.nbytes for column in (shots.scene, shots.number, shots.depth_scale_m)) <= 20 * count
    assert shots.entry(123_456).key == "a-123456"
