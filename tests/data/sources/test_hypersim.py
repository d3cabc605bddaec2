"""Hypersim: rays made planar, void labels, radiance made a picture."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from container_views import HEIGHT, SIZE, WIDTH, depth_m, depth_mm, labels, loaded, only, opened, refusals
from PIL import Image

from pipeline.data.modality import Sample
from pipeline.data.sources.hypersim import tone_mapped
from pipeline.errors import InputError

FOCAL_PX = 40.0
NYU40 = {0: 1, 1: 2, 2: 7, 255: -1}
"""Stored label by class: wall, floor, table; -1 is void."""


def rays(number: int) -> np.ndarray:
    """Distances along the line of sight of the view's planar depth, NaN where there is none.

    As the dataset's own code: an image plane of pixel middles around the centre, at the focal length.
    """
    across = np.linspace(-0.5 * WIDTH + 0.5, 0.5 * WIDTH - 0.5, WIDTH).reshape(1, WIDTH).repeat(HEIGHT, 0)
    down = np.linspace(-0.5 * HEIGHT + 0.5, 0.5 * HEIGHT - 0.5, HEIGHT).reshape(HEIGHT, 1).repeat(WIDTH, 1)
    plane = np.stack([across, down, np.full((HEIGHT, WIDTH), FOCAL_PX)], axis=-1)
    planar = np.where(depth_mm(number) == 0, np.nan, depth_mm(number) * 0.001)
    return planar * np.linalg.norm(plane, 2, axis=2) / FOCAL_PX


def gradient(number: int) -> np.ndarray:
    """Smooth, so that a JPEG hardly changes it; brighter to the right, greener downwards."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 5, rows * 7, np.full_like(rows, 20 * number)], axis=-1).astype(np.uint8)


def hdf5(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", data=array, compression="gzip")


def write_frame(root: Path, scene: str, number: int, frame: int | None = None) -> None:
    images = root / scene / "images"
    name = f"frame.{number if frame is None else frame:04d}"
    preview = images / "scene_cam_00_final_preview"
    preview.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gradient(number)).save(preview / f"{name}.tonemap.jpg", quality=95)
    Image.fromarray(gradient(number)).save(preview / f"{name}.color.jpg")
    geometry = images / "scene_cam_00_geometry_hdf5"
    hdf5(images / f"scene_cam_00_final_hdf5/{name}.color.hdf5", gradient(number).astype(np.float16) / 10)
    hdf5(geometry / f"{name}.depth_meters.hdf5", rays(number).astype(np.float32))
    stored = np.vectorize(NYU40.__getitem__)(labels(number)).astype(np.int16)
    hdf5(geometry / f"{name}.semantic.hdf5", stored)
    hdf5(geometry / f"{name}.semantic_instance.hdf5", stored)
    hdf5(geometry / f"{name}.render_entity_id.hdf5", np.ones((HEIGHT, WIDTH), np.int16))


def source(root: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "hypersim", "root": str(root), "focal_px": FOCAL_PX} | changes


def write_scenes(root: Path) -> Path:
    for scene, numbers in (("ai_001_001", [0, 1]), ("ai_001_002", [2, 10])):
        for number in numbers:
            write_frame(root, scene, number)
    return root


def check_view(sample: Any, number: int, index_of: dict[int, int]) -> None:
    assert isinstance(sample, Sample), sample
    assert sample.rgb is not None
    assert sample.depth is not None
    assert np.abs(sample.rgb.astype(int) - gradient(number)[:, 8:40]).max() < 12
    np.testing.assert_allclose(sample.depth, depth_m(number), rtol=1e-5)
    expected = np.vectorize(index_of.__getitem__)(labels(number)[:, 8:40])
    np.testing.assert_array_equal(sample.seg, expected)


def test_views_are_right_in_every_pixel(tmp_path: Path) -> None:
    catalogue = opened(source(write_scenes(tmp_path)))
    assert [str(entry) for entry in catalogue.entries] == [
        "ai_001_001/cam_00/0000",
        "ai_001_001/cam_00/0001",
        "ai_001_002/cam_00/0002",
        "ai_001_002/cam_00/0010",
    ]
    assert catalogue.entries[2].key == "ai_001_002-cam_00-0002"
    for sample, number in zip(loaded(catalogue), [0, 1, 2, 10], strict=True):
        check_view(sample, number, {0: 0, 1: 1, 2: 6, 255: 255})
    names = catalogue.class_names
    assert names is not None
    assert (len(names), names[0], names[6]) == (40, "wall", "table")


def test_labels_may_be_made_fewer_by_a_table(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    (tmp_path / "t.csv").write_text("1,1\n2,1\n7,2\n")
    catalogue = opened(source(tmp_path, labels={"table": "t.csv", "classes": ["structure", "table"]}))
    assert catalogue.class_names == ("structure", "table")
    check_view(only(catalogue), 0, {0: 0, 1: 0, 2: 1, 255: 255})


def test_radiance_is_tone_mapped_as_its_authors_do() -> None:
    grey = np.linspace(0, 10, 1001, dtype=np.float32).reshape(1, 1001, 1).repeat(3, 2)
    mapped = tone_mapped(grey, np.ones((1, 1001), bool))
    assert mapped[0, 900].tolist() == [int(0.8 * 255)] * 3
    assert (mapped[0, 0].tolist(), mapped[0, 1000].tolist()) == ([0, 0, 0], [214, 214, 214])
    half = tone_mapped(grey, np.arange(1001)[None] <= 500)
    assert half[0, 450].tolist() == [204] * 3
    assert half[0, 1000].tolist() == [255] * 3


def test_radiance_keeps_the_order_of_axes(tmp_path: Path) -> None:
    catalogue = opened(source(write_scenes(tmp_path), rgb="color"))
    sample = only(catalogue)
    assert sample.rgb is not None
    radiance = gradient(0).astype(np.float16) / 10
    expected = tone_mapped(radiance, np.ones((HEIGHT, WIDTH), bool))[:, 8:40]
    np.testing.assert_array_equal(sample.rgb, expected)
    assert sample.rgb[0, SIZE - 1, 0] > sample.rgb[SIZE - 1, 0, 0]


def test_splits_are_those_of_the_published_list(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    header = (
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"
    )
    lines = [
        "ai_001_001,cam_00,0,True,,train",
        "ai_001_001,cam_00,1,False,x,",
        "ai_001_002,cam_00,10,True,,test",
    ]
    (tmp_path / "s.csv").write_text(header + "\n".join(lines))
    catalogue = opened(source(tmp_path, splits="s.csv"))
    assert [str(entry) for entry in catalogue.entries] == ["ai_001_001/cam_00/0000", "ai_001_002/cam_00/0010"]
    assert catalogue.splits == ["train", "test"]
    assert catalogue.notes == ("2 of 4 views are in no split of s.csv and left out",)
    for text, message in (
        (header + lines[0], "none of the 4 views is for test"),
        ("a,b\n1,2\n", r"not like metadata_images_split_scene_v1\.csv"),
    ):
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            opened(source(tmp_path, splits="s.csv"))
    with pytest.raises(InputError, match=r"data\.source\.splits: there is no file .*nowhere\.csv"):
        opened(source(tmp_path, splits="nowhere.csv"))


def test_views_that_lack_a_file_lack_the_modality(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    geometry = tmp_path / "ai_001_001/images/scene_cam_00_geometry_hdf5"
    (geometry / "frame.0000.semantic.hdf5").unlink()
    catalogue = opened(source(tmp_path))
    sample = only(catalogue)
    assert sample.seg is None
    assert sample.depth is not None
    assert "1 of 4 views lack seg; it is missing there" in catalogue.notes


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data")
    first = tmp_path / "data/ai_001_001/images/scene_cam_00_geometry_hdf5"
    second = tmp_path / "data/ai_001_002/images/scene_cam_00_geometry_hdf5"
    (first / "frame.0000.depth_meters.hdf5").write_bytes(b"no HDF5")
    with h5py.File(first / "frame.0001.depth_meters.hdf5", "w") as file:
        file["dataset"] = h5py.ExternalLink(str(second / "frame.0002.depth_meters.hdf5"), "dataset")
    (tmp_path / "elsewhere.hdf5").write_bytes((second / "frame.0002.depth_meters.hdf5").read_bytes())
    (second / "frame.0002.depth_meters.hdf5").unlink()
    (second / "frame.0002.depth_meters.hdf5").symlink_to(tmp_path / "elsewhere.hdf5")
    hdf5(second / "frame.0010.semantic.hdf5", np.full((HEIGHT, WIDTH), 41, np.int16))
    assert refusals(opened(source(tmp_path / "data"))) == {
        "ai_001_001/cam_00/0000": "unreadable",
        "ai_001_001/cam_00/0001": "link",
        "ai_001_002/cam_00/0002": "link",
        "ai_001_002/cam_00/0010": "class_out_of_range",
    }


def test_folder_without_hypersim_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no file like ai_001_001/images/scene_cam_00_final_preview"):
        opened(source(tmp_path))
    with pytest.raises(InputError, match=r"data\.source\.root: there is no folder"):
        opened(source(tmp_path / "nowhere"))


def test_only_the_files_of_a_chunk_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = opened(source(write_scenes(tmp_path)))
    names = []
    original = h5py.File.__init__

    def init(self: Any, name: Any, *rest: Any, **more: Any) -> None:
        if isinstance(name, Path):
            names.append(name.name)
        original(self, name, *rest, **more)

    monkeypatch.setattr(h5py.File, "__init__", init)
    assert len(list(catalogue.load(catalogue.entries[3:4]))) == 1
    assert sorted(names) == ["frame.0010.depth_meters.hdf5", "frame.0010.semantic.hdf5"]
