"""What is written can be read: by this project, by tarfile and by plain webdataset."""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image
from small_dataset import CLASSES, FACTORS, SIZE, sample, tree_bytes, write

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.refusal import Refusal
from pipeline.data.shards.dataset import dataset_digest, decode_sample, read_info, write_dataset
from pipeline.data.shards.fingerprint import content_of, look_of
from pipeline.data.shards.tar import header

# webdataset leaves closing its files to the garbage collector.
reads_with_webdataset = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "first", encoding=encoding)
    write(tmp_path / "second", encoding=encoding)
    assert tree_bytes(tmp_path / "first") == tree_bytes(tmp_path / "second")
    assert dataset_digest(tmp_path / "first") == dataset_digest(tmp_path / "second")


def test_the_digest_names_the_content_and_not_the_place(tmp_path: Path) -> None:
    write(tmp_path / "first", train=20)
    write(tmp_path / "second", train=21)
    assert dataset_digest(tmp_path / "first") != dataset_digest(tmp_path / "second")


def test_a_changed_pixel_changes_the_digest(tmp_path: Path) -> None:
    for name, value in (("first", 0), ("second", 1)):
        grey = Sample("a", rgb=np.full((SIZE, SIZE, 3), value, np.uint8))
        write_dataset(tmp_path / name, [("train", grey)], class_names=None, image_size=SIZE)
    assert dataset_digest(tmp_path / "first") != dataset_digest(tmp_path / "second")


def test_the_directory_holds_what_is_documented(tmp_path: Path) -> None:
    write(tmp_path, train=20, test=4, shard_samples=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.json",
        "index.parquet",
        "quarantine.parquet",
        "test-000000.tar",
        *(f"train-00000{number}.tar" for number in range(4)),
    ]
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["n00000.rgb.npy", "n00000.depth.npy", "n00000.seg.npy", "n00000.json"]
        assert len(names) == 6 * 4
        assert all(m.mtime == 0 and m.uid == 0 and m.gid == 0 and m.uname == "" for m in tar.getmembers())


def test_the_index_points_at_the_members(tmp_path: Path) -> None:
    write(tmp_path, encoding="png")
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["key"] for row in rows[:2]] == ["n00000", "n00001"]
    assert [row["split"] for row in rows] == ["train"] * 20 + ["test"] * 4
    for row in rows:
        with tarfile.open(tmp_path / row["shard"]) as tar:
            for member, suffix in (
                ("rgb", "rgb.png"),
                ("depth", "depth.png"),
                ("seg", "seg.png"),
                ("json", "json"),
            ):
                info = tar.getmember(f"{row['key']}.{suffix}")
                assert (info.offset_data, info.size) == (row[f"{member}_offset"], row[f"{member}_size"])
        number = int(row["key"][1:])
        assert (row["factor_hue"], row["factor_size"]) == (number % 2, number % 3)


@reads_with_webdataset
@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_plain_webdataset_reads_it(tmp_path: Path, encoding: str) -> None:
    info = write(tmp_path, encoding=encoding)
    shards = sorted(str(path) for path in tmp_path.glob("train-*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=False).map(
        partial(decode_sample, depth_scale_m=info.depth_scale_m)
    )
    read = list(dataset)
    assert [item["__key__"] for item in read] == [f"n{number:05d}" for number in range(20)]
    for number, item in enumerate(read):
        expected = sample(number)
        np.testing.assert_array_equal(item["rgb"], expected.rgb)
        np.testing.assert_array_equal(item["seg"], expected.seg)
        tolerance_m = 0 if encoding == "npy" else info.depth_scale_m / 2 + 1e-6
        np.testing.assert_allclose(item["depth"], expected.depth, atol=tolerance_m, rtol=0)
        assert item["depth"].dtype == np.float32
        assert item["json"] == {
            "origin": f"source/{number}",
            "factors": {"hue": number % 2, "size": number % 3},
        }


@reads_with_webdataset
def test_webdataset_decoding_of_pil_mangles_sixteen_bit_depth(tmp_path: Path) -> None:
    """Why there is decode_sample, and why the documentation warns."""
    info = write(tmp_path, encoding="png")
    shard = str(tmp_path / "test-000000.tar")
    mangled = next(iter(wds.WebDataset(shard, shardshuffle=False).decode("pil")))["depth.png"]
    stored = np.asarray(mangled)
    exact = sample(100_000).depth
    assert stored.dtype == np.uint8
    assert set(np.unique(stored)) <= {0, 255}
    assert np.nanmax(exact) / info.depth_scale_m > 255


def test_depth_png_is_sixteen_bit_with_zero_for_invalid(tmp_path: Path) -> None:
    info = write(tmp_path, encoding="png")
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        stored = np.asarray(Image.open(io.BytesIO(tar.extractfile("n00003.depth.png").read())))  # type: ignore[union-attr]
    exact = sample(3).depth
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored == 0, np.isnan(exact))
    valid = ~np.isnan(exact)
    np.testing.assert_allclose(
        stored[valid] * info.depth_scale_m, exact[valid], atol=info.depth_scale_m / 2 + 1e-6
    )


def test_depth_too_far_for_a_png_is_refused_with_a_remedy(tmp_path: Path) -> None:
    far = Sample("far", depth=np.full((SIZE, SIZE), 70.0, np.float32), origin="far.npy")
    info = write_dataset(
        tmp_path, [("train", sample(1)), ("train", far)], class_names=CLASSES, image_size=SIZE, encoding="png"
    )
    assert info.counts == {"train": 1}
    refusal = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    assert refusal[0]["reason"] == "depth_out_of_range"
    assert refusal[0]["origin"] == "far.npy"
    assert "data.encoding: {depth: npy.zst}" in refusal[0]["remedy"]


def test_depth_statistics_are_those_of_all_valid_training_pixels(tmp_path: Path) -> None:
    info = write(tmp_path, train=20, test=4)
    depth = np.stack([sample(number).depth for number in range(20)]).astype(np.float64)
    valid = depth[~np.isnan(depth)]
    assert info.depth is not None
    assert info.depth.mean_m == pytest.approx(valid.mean(), rel=1e-12)
    assert info.depth.std_m == pytest.approx(valid.std(), rel=1e-9)
    assert info.depth.log_mean == pytest.approx(np.log(valid).mean(), rel=1e-12)
    assert info.depth.log_std == pytest.approx(np.log(valid).std(), rel=1e-9)
    assert (info.depth.min_m, info.depth.max_m) == (valid.min(), valid.max())


def test_what_was_written_is_what_is_described(tmp_path: Path) -> None:
    info = write(tmp_path)
    assert read_info(tmp_path) == info
    assert info.modalities == ("rgb", "depth", "seg")
    assert info.class_names == CLASSES
    assert info.factors == FACTORS
    assert info.counts == {"train": 20, "test": 4}
    assert info.source == {"kind": "noise"}


def test_quarantine_names_reason_file_and_remedy_and_is_there_even_when_empty(tmp_path: Path) -> None:
    refusal = Refusal("frame_7", "unreadable", "frame_7.png: truncated", "replace the file")
    info = write_dataset(
        tmp_path / "some", [("train", sample(1)), refusal], class_names=CLASSES, image_size=SIZE
    )
    assert info.quarantine == {"unreadable": 1}
    assert pq.read_table(tmp_path / "some" / "quarantine.parquet").to_pylist() == [
        {
            "origin": "frame_7",
            "reason": "unreadable",
            "detail": "frame_7.png: truncated",
            "remedy": "replace the file",
            "split": "",
        }
    ]
    write(tmp_path / "none")
    assert pq.read_table(tmp_path / "none" / "quarantine.parquet").num_rows == 0


def test_a_missing_modality_has_no_member(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        [("train", sample(1)), ("train", sample(2, depth=False))],
        class_names=CLASSES,
        image_size=SIZE,
    )
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert "n00001.depth.npy" in tar.getnames()
        assert "n00002.depth.npy" not in tar.getnames()


def test_classes_without_names_are_named_by_number(tmp_path: Path) -> None:
    info = write_dataset(tmp_path, [("train", sample(1))], class_names=None, image_size=SIZE)
    assert info.class_names == ("0", "1", "2")


@pytest.mark.parametrize("name", ["a.json", "n-_0.rgb.npy", "x" * 80 + ".depth.npy.zst"])
@pytest.mark.parametrize("size", [0, 7, 16_512, 2**33 - 1])
def test_headers_are_those_that_tarfile_writes(name: str, size: int) -> None:
    expected = tarfile.TarInfo(name)
    expected.size, expected.mode = size, 0o644
    assert header(name, size) == expected.tobuf(tarfile.USTAR_FORMAT)


def test_small_tars_of_a_split_are_joined_in_order(tmp_path: Path) -> None:
    """What interleaved splits and leftovers look like: 6 + 6 + 2 of one, 3 of the other."""
    mixed = [("train" if n % 5 else "heldout", sample(n)) for n in range(17)]
    write_dataset(
        tmp_path,
        mixed,
        class_names=CLASSES,
        image_size=SIZE,
        shard_samples=6,
        factors=FACTORS,
        encoding="png",
    )
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["key"] for row in rows if row["split"] == "train"] == [
        f"n{n:05d}" for n in range(17) if n % 5
    ]
    assert [row["key"] for row in rows if row["split"] == "heldout"] == [
        f"n{n:05d}" for n in range(17) if n % 5 == 0
    ]
    assert ShardedDataset(tmp_path).length("train") == 13


def test_the_index_knows_content_look_and_depth(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        [("train", sample(1)), ("train", sample(2, depth=False)), ("test", sample(3, rgb=False))],
        class_names=CLASSES,
        image_size=SIZE,
    )
    rows = pq.read_table(tmp_path / "index.parquet")
    assert [str(rows.schema.field(name).type) for name in ("content", "look", "depth_median_m")] == [
        "uint64",
        "fixed_size_binary[16]",
        "float",
    ]
    first, second, third = rows.to_pylist()
    assert (first["content"], first["look"]) == (content_of(sample(1)), look_of(sample(1).rgb))
    depth = sample(1).depth
    assert first["depth_median_m"] == np.sort(depth[np.isfinite(depth)])[(np.isfinite(depth).sum() - 1) // 2]
    assert np.isnan(second["depth_median_m"])
    assert third["look"] is None
