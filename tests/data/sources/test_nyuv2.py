"""NYU Depth v2 as MATLAB stores it: axes turned, 894 labels made few by a table."""

import builtins
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from container_views import check, depth_mm, labels, loaded, only, opened, refusals, rgb
from scipy.io import savemat

from pipeline.data.modality import Sample
from pipeline.errors import InputError

COUNT = 5
OLD = {0: 700, 1: 21, 2: 5, 255: 0}
"""Stored label by the class (0 floor, 1 cup, 2 box) that it becomes; 0 is unlabelled."""
TABLE = "old,new\n700,1\n21,2\n5,3\n6,0\n"


def stored_labels(number: int) -> np.ndarray:
    return np.vectorize(OLD.__getitem__)(labels(number)).astype(np.uint16)


def write_mat(root: Path, **changes: Any) -> Path:
    """The labelled file, with frames turned as MATLAB does, and a table of labels."""
    arrays = {
        "images": np.stack([rgb(number).transpose(2, 1, 0) for number in range(COUNT)]),
        "depths": np.stack([depth_mm(number).T * np.float32(0.001) for number in range(COUNT)]),
        "rawDepths": np.stack([depth_mm(number).T * np.float32(0.002) for number in range(COUNT)]),
        "labels": np.stack([stored_labels(number).T for number in range(COUNT)]),
    }
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        names = np.array([[ord(letter)] for letter in "chair"], np.uint16)
        references = file.create_dataset("names", (1, 1), h5py.ref_dtype)
        references[0, 0] = file.create_dataset("#refs#/a", data=names).ref
        for name, array in (arrays | changes).items():
            if array is not None:
                file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
    (root / "table.csv").write_text(TABLE)
    return root


def source(root: Path, **changes: Any) -> dict[str, Any]:
    table = {"table": "table.csv", "classes": ["floor", "cup", "box"]}
    return {"kind": "nyuv2", "root": str(root), "labels": table} | changes


def test_frames_are_right_in_every_pixel(tmp_path: Path) -> None:
    catalogue = opened(source(write_mat(tmp_path)))
    assert [(str(entry), entry.key) for entry in catalogue.entries][:2] == [
        ("frame 1", "0001"),
        ("frame 2", "0002"),
    ]
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert catalogue.class_names == ("floor", "cup", "box")
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (0.001, False)


def test_measured_depth_may_be_taken_instead_and_modalities_left_out(tmp_path: Path) -> None:
    catalogue = opened(source(write_mat(tmp_path), depth="rawDepths", rgb=False))
    sample = only(catalogue)
    assert sample.depth is not None
    check(Sample(sample.key, None, sample.depth / 2, sample.seg), 0, leave_out=["rgb"])
    check(only(opened(source(tmp_path, labels=None))), 0, leave_out=["seg"])


def test_tables_are_csv_or_json_and_their_mistakes_are_named(tmp_path: Path) -> None:
    write_mat(tmp_path)
    (tmp_path / "t.json").write_text(json.dumps({"700": 0, "21": 1, "5": 2, "6": -1}))
    table = {"table": "t.json", "first": 0, "ignore": [-1], "classes": ["floor", "cup", "box"]}
    check(loaded(opened(source(tmp_path, labels=table)))[3], 3)
    unnamed = {"table": "table.csv"}
    assert opened(source(tmp_path, labels=unnamed)).class_names == ("1", "2", "3")
    mistakes = {
        "1;2\n3;4\n": r"table\.csv:2: '3;4'; a line is `old,new`, two whole numbers",
        "700,1\n700,2\n": r"table\.csv: label 700 becomes both 1 and 2; keep one line of it",
        "700,4\n": r"label 700 becomes 4, which is no class; they are 1\.\.3 \(floor to box\)",
        "[1, 2]": r"a JSON object .* is expected, not a list",
        "{": r"not a JSON file",
        '{"1": true}': r"'1': True; both are whole numbers",
    }
    for text, message in mistakes.items():
        name = "table.json" if text[0] in "[{" else "table.csv"
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            opened(source(tmp_path, labels={"table": name, "classes": ["floor", "cup", "box"]}))
    with pytest.raises(InputError, match=r"data\.source\.labels\.table: there is no file .*nowhere\.csv"):
        opened(source(tmp_path, labels={"table": "nowhere.csv"}))


def test_known_class_names_are_known(tmp_path: Path) -> None:
    write_mat(tmp_path)
    names = opened(source(tmp_path, labels={"table": "table.csv", "classes": "nyu13"})).class_names
    assert names is not None
    assert (len(names), names[0], names[12]) == (13, "bed", "window")
    names = opened(source(tmp_path, labels={"table": "table.csv", "classes": "nyu40"})).class_names
    assert names is not None
    assert (len(names), names[0], names[39]) == (40, "wall", "otherprop")


def test_label_that_the_table_does_not_know_is_refused(tmp_path: Path) -> None:
    write_mat(tmp_path)
    (tmp_path / "table.csv").write_text("700,1\n21,2\n")
    catalogue = opened(source(tmp_path, labels={"table": "table.csv", "classes": ["floor", "cup"]}))
    assert refusals(catalogue) == {"frame 2": "class_out_of_range", "frame 4": "class_out_of_range"}


def test_splits_are_the_official_lists(tmp_path: Path) -> None:
    write_mat(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[3], [4], [5]], "testNdxs": [[1]]})
    catalogue = opened(source(tmp_path, splits="splits.mat"))
    assert [str(entry) for entry in catalogue.entries] == ["frame 1", "frame 3", "frame 4", "frame 5"]
    assert catalogue.splits == ["test", "train", "train", "train"]
    assert catalogue.notes == ("1 of 5 frames are in no split of splits.mat and left out",)
    check(loaded(catalogue)[1], 2)
    for lists, message in (
        ({"train": [1, 2], "test": [6]}, "test has frame 6; there are 1..5"),
        ({"train": [1, 2], "test": [2]}, "frame 2 is in both splits"),
        ({"train": [1]}, "not lists of frames"),
    ):
        (tmp_path / "splits.json").write_text(json.dumps(lists))
        with pytest.raises(InputError, match=message):
            opened(source(tmp_path, splits="splits.json"))


def test_labels_without_a_table_are_refused_in_the_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels needs `table`: the file has 894 labels"):
        opened(source(tmp_path, labels={"classes": "nyu40"}))


def test_file_that_is_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labeled\.mat is not there; is it the file of version"):
        opened(source(tmp_path))
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(600))
    with pytest.raises(InputError, match=r"not an HDF5 file: .* is it the file of version 7\.3"):
        opened(source(tmp_path))
    write_mat(tmp_path, depths=None)
    with pytest.raises(InputError, match="depths is not there; there are #refs#, images, labels, names"):
        opened(source(tmp_path))
    write_mat(tmp_path, depths=np.zeros((COUNT, 7, 7), np.float32))
    with pytest.raises(InputError, match="its arrays do not fit each other"):
        opened(source(tmp_path))


def test_arrays_outside_the_file_are_not_opened(tmp_path: Path) -> None:
    write_mat(tmp_path / "other")
    write_mat(tmp_path, depths=None)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "a") as file:
        file["depths"] = h5py.ExternalLink(str(tmp_path / "other/nyu_depth_v2_labeled.mat"), "depths")
    with pytest.raises(InputError, match="depths is a link; links are not followed"):
        opened(source(tmp_path))
    with h5py.File(path, "a") as file:
        del file["depths"]
        file["depths"] = h5py.SoftLink("/rawDepths")
    with pytest.raises(InputError, match="depths is a link; links are not followed"):
        opened(source(tmp_path))
    with h5py.File(path, "a") as file:
        del file["depths"]
        outside = [(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("depths", (COUNT, 48, 32), np.float32, external=outside)
    with pytest.raises(InputError, match="depths lies in other files; they are not opened"):
        opened(source(tmp_path))
    with h5py.File(path, "a") as file:
        del file["depths"]
        layout = h5py.VirtualLayout((COUNT, 48, 32), np.float32)
        layout[:] = h5py.VirtualSource("other/nyu_depth_v2_labeled.mat", "depths", (COUNT, 48, 32))
        file.create_virtual_dataset("depths", layout)
    with pytest.raises(InputError, match="depths lies in other files; they are not opened"):
        opened(source(tmp_path))
    with h5py.File(path, "a") as file:
        del file["depths"]
        file.create_dataset("depths", (COUNT, 48, 32), h5py.string_dtype())
    with pytest.raises(InputError, match="depths holds objects"):
        opened(source(tmp_path))


def test_frame_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    root = write_mat(tmp_path, depths=None)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
        file.create_dataset("depths", (COUNT, 100_000, 100_000), np.float32, chunks=(1, 1000, 1000))
    catalogue = opened(source(root, rgb=False, labels=None))
    assert set(refusals(catalogue).values()) == {"too_large"}


def test_only_the_frames_of_a_chunk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = opened(source(write_mat(tmp_path)))
    asked = []
    original = h5py.Dataset.__getitem__

    def read(self: Any, part: Any, *rest: Any, **more: Any) -> Any:
        asked.append((self.name, part))
        return original(self, part, *rest, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    for number, sample in enumerate(catalogue.load(catalogue.entries[2:4]), start=2):
        check(sample, number)
    assert {part for _, part in asked} == {(2,), (3,)}


def test_missing_library_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without_h5py(name: str, *rest: Any, **more: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(InputError, match=r"needs h5py: pip install 'triptych\[hdf5\]'"):
        opened(source(tmp_path))
