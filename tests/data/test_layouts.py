"""Folders however people lay them out: which files belong together, and which split they are for."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_folder import depth_mm, labels, make_folder, rgb_picture
from PIL import Image
from pydantic import ValidationError

from pipeline.config.data import Data
from pipeline.data.keys import natural, natural_text
from pipeline.data.modality import Sample
from pipeline.data.sources import open_source
from pipeline.data.sources.catalogue import Catalogue
from pipeline.errors import InputError


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def config_of(root: Path, data: dict[str, Any] | None = None, **source: Any) -> Data:
    described = {"kind": "folder", "root": str(root), "depth": {"unit": "mm"}}
    return Data.model_validate({"source": described | source, "image_size": 32} | (data or {}))


def opened(root: Path, **source: Any) -> Catalogue:
    return open_source(config_of(root, **source))


def samples(catalogue: Catalogue) -> list[Sample]:
    loaded = list(catalogue.load(catalogue.entries[:]))
    assert all(isinstance(sample, Sample) for sample in loaded), loaded
    return loaded  # type: ignore[return-value]


def names(catalogue: Catalogue) -> list[str]:
    return [str(entry) for entry in catalogue.entries[:]]


def test_folders_of_splits_with_classes_as_multimae_and_4m_have_them(tmp_path: Path) -> None:
    for number, (split, kind) in enumerate([
        ("train", "cup"),
        ("train", "box"),
        ("val", "cup"),
        ("test", "box"),
    ]):
        for count in range(2):
            stem = f"{kind}/{count}.png"  # the same names in every split
            put(tmp_path / split / "rgb" / stem, rgb_picture(number * 2 + count))
            put(tmp_path / split / "depth" / stem, depth_mm(number * 2 + count))
            put(tmp_path / split / "semseg" / stem, labels(number))
    catalogue = opened(tmp_path, layout="splits", seg={"directory": "semseg"})
    assert names(catalogue) == [
        *("test/box/0", "test/box/1", "train/box/0", "train/box/1"),
        *("train/cup/0", "train/cup/1", "val/cup/0", "val/cup/1"),
    ]
    assert list(catalogue.splits) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    loaded = samples(catalogue)
    assert all(s.rgb is not None and s.depth is not None and s.seg is not None for s in loaded)
    first, second = loaded[2:4]
    assert not np.array_equal(first.rgb, second.rgb)
    assert len({sample.key for sample in loaded}) == 8


def test_cityscapes_is_read_with_its_splits_suffixes_and_disparities(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            stem = f"aachen_00000{number}_000019"
            put(tmp_path / "leftImg8bit" / split / "aachen" / f"{stem}_leftImg8bit.png", rgb_picture(number))
            put(tmp_path / "gtFine" / split / "aachen" / f"{stem}_gtFine_labelIds.png", labels(number) % 34)
            put(tmp_path / "gtFine" / split / "aachen" / f"{stem}_gtFine_instanceIds.png", depth_mm(number))
            put(tmp_path / "gtFine" / split / "aachen" / f"{stem}_gtFine_color.png", rgb_picture(number))
            (tmp_path / "gtFine" / split / "aachen" / f"{stem}_gtFine_polygons.json").write_text("{}")
            disparity = np.full((48, 64), 12801, np.uint16)
            put(tmp_path / "disparity" / split / "aachen" / f"{stem}_disparity.png", disparity)
    camera = {"unit": "cityscapes", "encoding": "disparity", "focal_px": 2262.52, "baseline_m": 0.209313}
    catalogue = opened(tmp_path, layout="cityscapes", depth=camera)
    assert names(catalogue)[0] == "train/aachen/aachen_000000_000019"
    assert list(catalogue.splits) == ["train"] * 2 + ["test"] * 2
    assert any("validation is used for testing" in note for note in catalogue.notes)
    for sample in samples(catalogue):
        assert sample.depth is not None
        np.testing.assert_allclose(sample.depth, 9.47149697, rtol=1e-6)
        assert sample.seg is not None
        assert sample.rgb is not None
    assert not catalogue.whole_depth
    chosen = opened(tmp_path, layout="cityscapes", depth=camera, splits={"train": "val", "test": "train"})
    assert list(chosen.splits) == ["test"] * 2 + ["train"] * 2


def test_named_groups_of_patterns_join_files(tmp_path: Path) -> None:
    for scene in ("office", "kitchen"):
        for frame in (9, 10, 100):
            put(tmp_path / scene / f"frame-{frame}.color.png", rgb_picture(frame))
            put(tmp_path / scene / f"frame-{frame}.depth.png", depth_mm(frame))
    put(tmp_path / "labels" / "kitchen-10.png", labels(0))
    catalogue = opened(
        tmp_path,
        rgb={"pattern": r"(?P<scene>[^/]+)/frame-(?P<id>\d+)\.color\.png"},
        depth={"unit": "mm", "pattern": r"(?P<scene>[^/]+)/frame-(?P<id>\d+)\.depth\.png"},
        seg={"pattern": r"labels/(?P<scene>\w+)-(?P<id>\d+)\.png"},
    )
    assert names(catalogue) == [
        f"{scene}/{frame}" for scene in ("kitchen", "office") for frame in (9, 10, 100)
    ]
    assert any("5 of 6 samples lack a modality" in note for note in catalogue.notes)
    seen = {sample.origin: sample for sample in samples(catalogue)}
    assert [name for name, sample in seen.items() if sample.seg is not None] == ["kitchen/10"]


def test_a_group_split_of_a_pattern_tells_the_split(tmp_path: Path) -> None:
    for folder in ("training", "testing", "spare"):
        for number in range(2):
            put(tmp_path / folder / f"{number}.png", rgb_picture(number))
            put(tmp_path / folder / f"{number}.depth.png", depth_mm(number))
    places: dict[str, Any] = {
        "rgb": {"pattern": r"(?P<split>\w+)/(?P<id>\d+)\.png"},
        "depth": {"unit": "mm", "pattern": r"(?P<split>\w+)/(?P<id>\d+)\.depth\.png"},
        "seg": None,
    }
    splits = {"train": "training", "test": ["testing"]}
    catalogue = opened(tmp_path, splits=splits, **places)
    assert names(catalogue) == ["testing/0", "testing/1", "training/0", "training/1"]
    assert list(catalogue.splits) == ["test", "test", "train", "train"]
    assert any("1 of 3 folders of splits" in note and "left out" in note for note in catalogue.notes)
    with pytest.raises(
        InputError, match=r"do not tell which are for training.*\{train: \[spare\], test: \[\.\.\.\]\}"
    ):
        opened(tmp_path, **places)
    with pytest.raises(InputError, match=r"data\.source\.splits: none of the 3 folders.*matches practice"):
        opened(tmp_path, splits={"train": "practice", "test": "testing"}, **places)


def test_entries_are_small_and_made_when_asked_for(tmp_path: Path) -> None:
    catalogue = opened(make_folder(tmp_path / "in", count=12))
    entries = catalogue.entries
    assert len(entries) == 12
    assert str(entries[9]) == "frame_9"
    assert entries[3] is not entries[3]
    assert [entry.key for entry in entries[2:4]] == ["frame_2", "frame_3"]
    assert entries[0].files == {
        "rgb": "rgb/frame_0.png",
        "depth": "depth/frame_0.png",
        "seg": "seg/frame_0.png",
    }


@given(st.lists(st.text(st.sampled_from("ab019-/ ü٣"), max_size=8), min_size=2, max_size=6))
def test_the_order_of_columns_is_the_natural_order(listed: list[str]) -> None:
    by_text = sorted(sorted(listed), key=lambda name: natural_text(name).encode())
    assert by_text == sorted(sorted(listed), key=natural)


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=3)
    for modality in ("rgb", "depth", "seg"):
        Path(root / modality / "frame_1.png").rename(root / modality / os.fsdecode(b"fr\xffame.png"))
    catalogue = opened(root)
    assert "fr\\xffame" in names(catalogue)
    assert len(samples(catalogue)) == 3
    assert all(re.fullmatch("[A-Za-z0-9_-]+", entry.key) for entry in catalogue.entries[:])


def test_what_is_declared_missing_is_no_mistake(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=3)
    catalogue = opened(root, depth=None, seg=None)
    (first, *_) = samples(catalogue)
    assert (first.depth, first.seg) == (None, None)
    assert catalogue.class_names is None
    assert not catalogue.notes


def test_whole_depth_is_known_from_the_files_and_the_unit(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=3)
    kitti = opened(root, depth={"unit": "kitti"})
    assert (kitti.whole_depth, kitti.depth_scale_m) == (True, 1 / 256)
    (root / "depth" / "frame_1.png").unlink()
    np.save(root / "depth" / "frame_1.npy", np.ones((48, 64), np.float32))
    mixed = opened(root, depth={"unit": "kitti"})
    assert (mixed.whole_depth, mixed.depth_scale_m) == (False, 0.001)


def moved_to_train(root: Path) -> None:
    (root / "train").mkdir()
    for modality in ("rgb", "depth", "seg"):
        (root / modality).rename(root / "train" / modality)


@pytest.mark.parametrize(
    ("change", "source", "said"),
    [
        (
            moved_to_train,
            {},
            r"there is no folder .*/rgb; .*in/train/rgb is there: set data\.source\.layout: splits",
        ),
        (
            moved_to_train,
            {"layout": "splits", "seg": {"directory": "semseg"}},
            r"seg\.directory: no folder .*/SPLIT/semseg; there is train/ with depth, rgb, seg; .*layout",
        ),
        (
            lambda _: None,
            {"rgb": {"pattern": r"color/(?P<id>\d+)\.png"}, "depth": None, "seg": None},
            r"no path below it matches data\.source\.rgb\.pattern 'color.* whole; there are '.*frame_",
        ),
        (
            lambda _: None,
            {
                "rgb": {"pattern": r"rgb/(?P<id>\w+)\.png"},
                "depth": {"unit": "mm", "pattern": r"depth/frame_(?P<id>\d+)\.png"},
                "seg": None,
            },
            r"no name of rgb .*groups \(id\): rgb: 'frame_0'.*; depth: '0', '1'.*Change .*rgb\.pattern",
        ),
    ],
    ids=["a split lower", "no such folder in any split", "pattern of nothing", "groups differ"],
)
def test_a_layout_that_does_not_fit_is_one_message(
    tmp_path: Path, change: Callable[[Path], None], source: dict[str, Any], said: str
) -> None:
    root = make_folder(tmp_path / "in", count=3)
    change(root)
    with pytest.raises(InputError, match=said):
        opened(root, **source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"rgb": {"pattern": "(["}}, "not a regular expression"),
        ({"rgb": {"pattern": r"rgb/\d+\.png"}}, "needs a named group"),
        (
            {"rgb": {"pattern": "(?P<a>.)"}, "depth": {"unit": "m", "pattern": "(?P<b>.)"}, "seg": None},
            "same named groups.*rgb: a; depth: b",
        ),
        ({"rgb": {"pattern": "(?P<a>.)"}, "depth": None}, "seg needs a pattern too"),
    ],
)
def test_patterns_that_cannot_work_are_refused_with_the_config(source: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(Path(), **source)
