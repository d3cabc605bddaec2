"""Existing tars: what is made of their members, and how series are joined."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds
from container_views import (
    CLASSES,
    check,
    depth_mm,
    labels,
    loaded,
    members,
    npy,
    only,
    opened,
    png,
    rgb,
    tar_of,
    tar_of_samples,
    write,
)
from PIL import Image
from tar_views import source, write_tars

from pipeline.data.modality import Sample
from pipeline.errors import InputError


def test_samples_are_right_in_every_pixel_and_in_the_order_of_the_tars(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)))
    assert [str(entry) for entry in catalogue.entries] == [f"room/{number:04d}" for number in range(6)]
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
        assert isinstance(sample, Sample)
        assert sample.key == f"room_{number:04d}"
    assert catalogue.class_names == CLASSES
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (0.001, True)


def test_tars_that_webdataset_wrote_are_read(tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:06d}", **members(number), "cls": 3, "json": {"a": 1}})
    catalogue = opened(source(tmp_path))
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert "6 other members are not read: .cls, .json" in catalogue.notes


def test_braces_count_and_only_named_tars_are_taken(tmp_path: Path) -> None:
    write_tars(tmp_path, tars=4)
    catalogue = opened(source(tmp_path, shards="part-{001..002}.tar"))
    assert [str(entry) for entry in catalogue.entries] == [f"room/{number:04d}" for number in range(3, 9)]


def test_one_series_per_modality_is_joined_by_name_not_by_place(tmp_path: Path) -> None:
    order = {"rgb": [0, 1, 2, 3], "depth": [3, 1, 0], "seg": [2, 3, 1, 0]}
    for modality, numbers in order.items():
        content = [(f"{number}.png", members(number)[f"{modality}.png"]) for number in numbers]
        write(tmp_path / modality / "000.tar", tar_of(content[:2]))
        write(tmp_path / modality / "001.tar", tar_of(content[2:]))
    catalogue = opened(source(tmp_path, shards={modality: f"{modality}/*.tar" for modality in order}))
    samples = loaded(catalogue)
    for number in (0, 1, 3):
        check(samples[number], number)
    check(samples[2], 2, leave_out=["depth"])
    assert "1 of 4 samples lack a modality; it counts as missing there" in catalogue.notes


def test_names_that_repeat_from_tar_to_tar_are_told_apart_by_the_tar(tmp_path: Path) -> None:
    for tar in range(2):
        for modality in ("rgb", "depth", "seg"):
            content = [(f"{n}.png", members(2 * tar + n)[f"{modality}.png"]) for n in range(2)]
            write(tmp_path / modality / f"{tar}.tar", tar_of(content))
    shards = {modality: f"{modality}/*.tar" for modality in ("rgb", "depth", "seg")}
    catalogue = opened(source(tmp_path, shards=shards))
    assert [str(entry) for entry in catalogue.entries] == ["rgb/0/0", "rgb/0/1", "rgb/1/0", "rgb/1/1"]
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    (tmp_path / "depth/1.tar").unlink()
    with pytest.raises(
        InputError, match="different tars use the same names inside, and the series have 2, 1, 2 tars"
    ):
        opened(source(tmp_path, shards=shards))


def test_endings_are_configurable_and_what_is_named_for_one_is_not_guessed_for_another(
    tmp_path: Path,
) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(rgb(1)).save(jpeg, "JPEG", quality=95)
    content = {
        "jpg": jpeg.getvalue(),
        "png": png(labels(1)),
        "d.npy": npy(depth_mm(1).astype(np.float32) / 1000),
    }
    write(tmp_path / "a.tar", tar_of_samples({"one": content, "two": content}))
    sections = {"depth": {"unit": "m", "members": "d.npy"}, "seg": {"members": ["png"]}}
    catalogue = opened(source(tmp_path, **sections))
    sample = only(catalogue)
    assert sample.rgb is not None
    assert np.abs(sample.rgb.astype(int) - rgb(1)[:, 8:40]).mean() < 60
    check(Sample(sample.key, rgb(1)[:, 8:40], sample.depth, sample.seg), 1)
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (0.001, False)
    with pytest.raises(InputError, match=r"members \.png cannot be both depth and seg"):
        opened(source(tmp_path, depth={"unit": "m", "members": "png"}, seg={"members": "png"}))


def test_zst_members_are_unpacked(tmp_path: Path) -> None:
    packed = {
        number: {
            f"{ending}.zst": pa.compress(content, "zstd", asbytes=True)
            for ending, content in members(number).items()
        }
        for number in range(2)
    }
    write(tmp_path / "a.tar", tar_of_samples({str(number): there for number, there in packed.items()}))
    for number, sample in enumerate(loaded(opened(source(tmp_path)))):
        check(sample, number)


def test_names_of_tars_tell_the_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_tars(tmp_path / split, tars=1, name=f"{split}-{{:03d}}.tar")
    catalogue = opened(source(tmp_path, shards="{train,val,test}/*.tar"))
    assert catalogue.splits == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    assert catalogue.notes[0] == "names of tars tell the splits: 1 train, 1 val, 1 test"
    chosen = {"train": "train-*", "test": "val-*"}
    catalogue = opened(source(tmp_path, shards="{train,val,test}/*.tar", splits=chosen))
    assert catalogue.splits == ["train"] * 3 + ["test"] * 3
    assert catalogue.notes[0] == "1 of 3 tars are in none of data.source.splits and left out"


def test_tars_without_a_split_are_divided_in_blocks(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)), block=2)
    assert sorted(catalogue.splits) == ["test"] * 2 + ["train"] * 4 or sorted(catalogue.splits).count(
        "test"
    ) in (2, 4)
    assert all(catalogue.splits[place] == catalogue.splits[place + 1] for place in (0, 2, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": "x-*.tar"}, r"data\.source\.shards: no file matches .*x-\*\.tar; check the pattern"),
        ({"shards": "x.tar"}, r"data\.source\.shards: there is no file .*x\.tar"),
        ({"shards": "../a.tar"}, r"leads out of"),
        ({"shards": "/etc/*.tar"}, r"leads out of"),
        ({"shards": "a-{000..3.tar"}, r"a brace without its partner"),
        ({"shards": "a-{0..99999999}.tar"}, r"stands for more than 100,000 files"),
        (
            {"depth": {"unit": "mm", "members": "d.png"}},
            r"data\.source\.depth: no member .* ends in \.d\.png; others end in \.depth\.png",
        ),
        ({"splits": {"train": "*", "test": "part-000*"}}, r"matches those of train and test; a file has one"),
        (
            {"splits": {"train": "*000*", "test": "val*"}},
            r"none of the 2 tars matches val\*; one is part-000\.tar",
        ),
        ({"root": "nowhere"}, r"data\.source\.root: there is no folder nowhere"),
        (
            {"shards": {"rgb": "part-000.tar", "depth": "part-001.tar"}, "seg": None},
            r"no name in the tars of rgb occurs",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_tars(tmp_path)
    with pytest.raises(InputError, match=message):
        opened(source(tmp_path) | changes)


def test_old_and_long_names_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)):
        long = "/".join(["a" * 60] * (2 if form == tarfile.USTAR_FORMAT else 5))
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=form) as tar:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for ending, content in members(number).items():
                header = tarfile.TarInfo(f"./{long}/é{number}.{ending}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    catalogue = opened(source(tmp_path))
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
        assert isinstance(sample, Sample)
        assert sample.origin.endswith(f"/é{number}")
