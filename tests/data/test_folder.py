"""A person's own folder becomes a dataset, or a message that says what to change."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from picture_folder import Spoken, depth_mm, folder_config, labels, make_folder, rgb_picture, run_shard
from PIL import Image

from pipeline.data.keys import natural, unique_keys
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import SPLITS, Sample
from pipeline.data.shards.dataset import read_info
from pipeline.data.sources import open_source
from pipeline.errors import InputError


def quarantine(directory: Path) -> list[dict[str, str]]:
    return pq.read_table(directory / "quarantine.parquet").to_pylist()


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    manifest = run_shard(folder_config(make_folder(tmp_path / "in")), tmp_path / "out")
    counts = {split: manifest.metrics[f"samples/{split}"] for split in SPLITS}
    assert counts == {"train": 8.0, "val": 0.0, "test": 2.0, "heldout": 0.0}
    assert manifest.metrics["quarantined"] == 0.0
    info = read_info(tmp_path / "out")
    assert info.modalities == ("rgb", "depth", "seg")
    assert info.class_names == ("floor", "cup", "box")
    assert info.depth is not None
    assert info.depth.min_m == pytest.approx(1.0, abs=1e-6)
    assert info.depth.max_m == pytest.approx(2.0, abs=1e-6)
    batch = ShardedDataset(tmp_path / "out").read("train", range(8))
    number = int(batch.key[3].removeprefix("frame_"))
    crop = slice(8, 56)
    assert batch.modalities["seg"].value[3].unique().tolist() == sorted(
        {0, 1 + number % 2, 255} & set(labels(number)[:, crop].ravel().tolist())
    )
    assert np.isin(
        batch.modalities["depth"].value[3].unique().numpy(), depth_mm(number) / np.float32(1000)
    ).all()


def test_the_same_folder_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=40)
    for name, workers in (("one", 1), ("three", 3)):
        run_shard(folder_config(root, data={"workers": workers}), tmp_path / name)
    one, three = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "three")
    )
    assert one == three


def test_the_root_does_not_decide_the_bytes(tmp_path: Path) -> None:
    for name in ("here", "there"):
        run_shard(folder_config(make_folder(tmp_path / name / "in")), tmp_path / name / "out")
    assert (tmp_path / "here/out/dataset.json").read_bytes() == (
        tmp_path / "there/out/dataset.json"
    ).read_bytes()


def test_sub_folders_and_suffixes_belong_to_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number in range(6):
        (root / "kitchen").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb_picture(number)).save(root / "kitchen" / f"{number}_rgb.jpg")
        Image.fromarray(depth_mm(number)).save(root / "kitchen" / f"{number}_depth.png")
    places = {
        "rgb": {"directory": ".", "suffix": "_rgb"},
        "depth": {"directory": ".", "suffix": "_depth", "unit": "mm"},
    }
    catalogue = open_source(folder_config(root, seg=None, **places))
    loaded = list(catalogue.load(catalogue.entries[:]))
    assert [sample.origin for sample in loaded] == [f"kitchen/{number}" for number in range(6)]
    assert all(isinstance(s, Sample) and s.rgb is not None and s.depth is not None for s in loaded)
    assert isinstance(loaded[0], Sample)
    assert loaded[0].key.startswith("kitchen_")


def test_neighbours_stay_together_and_frame_9_comes_before_frame_10(tmp_path: Path) -> None:
    assert sorted(["frame_10", "frame_9", "frame_100", "a/2", "a/1"], key=natural) == [
        "a/1",
        "a/2",
        "frame_9",
        "frame_10",
        "frame_100",
    ]
    catalogue = open_source(folder_config(make_folder(tmp_path / "in", 30), data={"block": 5}))
    assert [str(entry) for entry in catalogue.entries[:]] == [f"frame_{number}" for number in range(30)]
    test = [number for number, split in enumerate(catalogue.splits) if split == "test"]
    assert len(test) == 5 or len(test) == 6 or len(test) == 10
    assert all(number // 5 == test[5 * (place // 5)] // 5 for place, number in enumerate(test))
    assert len(test) == round(0.2 * 30 / 5) * 5


def test_explicit_splits_and_class_names_come_from_meta(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    splits = {"train": [f"frame_{n}" for n in range(6)], "val": ["frame_6"], "test": ["frame_7", "frame_99"]}
    (root / "meta.json").write_text(json.dumps({"classes": ["a", "b", "c"], "splits": splits, "camera": "x"}))
    catalogue = open_source(folder_config(root, classes=(), meta="meta.json"))
    assert list(catalogue.splits) == ["train"] * 6 + ["val", "test"]
    assert [entry.key for entry in catalogue.entries[:]] == [f"frame_{number}" for number in range(8)]
    assert catalogue.class_names == ("a", "b", "c")
    assert any("2 samples are in none of the splits" in note for note in catalogue.notes)
    assert any("1 names in the splits" in note and "frame_99" in note for note in catalogue.notes)


def test_without_class_names_classes_are_named_by_number(tmp_path: Path) -> None:
    run_shard(folder_config(make_folder(tmp_path / "in"), classes=()), tmp_path / "out")
    assert read_info(tmp_path / "out").class_names == ("0", "1", "2")


def test_a_class_can_be_held_out(tmp_path: Path) -> None:
    config = folder_config(make_folder(tmp_path / "in"), data={"held_out": {"classes": ["box"]}})
    run_shard(config, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert {int(row["key"].removeprefix("frame_")) for row in rows if row["split"] == "heldout"} == {
        1,
        3,
        5,
        7,
        9,
    }


def test_a_missing_modality_is_missing_and_said(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    (root / "depth" / "frame_3.png").unlink()
    (root / "seg" / "frame_4.png").unlink()
    spoken = Spoken()
    run_shard(folder_config(root), tmp_path / "out", spoken)
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()}
    assert rows["frame_3"]["depth_offset"] == -1
    assert rows["frame_3"]["seg_size"] > 0
    assert rows["frame_4"]["seg_offset"] == -1
    assert any("2 of 10 samples lack a modality" in line for line in spoken.lines)


def test_bad_samples_are_left_out_and_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in", count=20)
    (root / "rgb" / "frame_0.png").write_bytes((root / "rgb" / "frame_0.png").read_bytes()[:500])
    Image.fromarray(rgb_picture(1, 24, 32)).save(root / "rgb" / "frame_1.png")
    spoken = Spoken()
    manifest = run_shard(folder_config(root), tmp_path / "out", spoken)
    assert manifest.metrics["quarantined"] == 2
    reasons = {row["origin"]: row["reason"] for row in quarantine(tmp_path / "out")}
    assert reasons == {"frame_0": "truncated", "frame_1": "size_mismatch"}
    assert all(row["detail"] and row["remedy"] for row in quarantine(tmp_path / "out"))
    assert sum(read_info(tmp_path / "out").counts.values()) == 18
    assert any("rgb is 32 x 24, depth is 64 x 48" in line for line in spoken.lines)


def test_links_within_the_folder_are_fine(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    (root / "store").mkdir()
    (root / "rgb" / "frame_5.png").rename(root / "store" / "5.png")
    (root / "rgb" / "frame_5.png").symlink_to("../store/5.png")
    catalogue = open_source(folder_config(root))
    assert all(isinstance(sample, Sample) for sample in catalogue.load(catalogue.entries[:]))


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    root, outside = make_folder(tmp_path / "in"), make_folder(tmp_path / "outside")
    (root / "rgb" / "more").symlink_to(outside / "rgb")
    (root / "rgb" / "loop").symlink_to(root / "rgb")
    assert len(open_source(folder_config(root)).entries) == 10


def test_too_many_refused_stops_with_the_most_frequent_reason(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    for number in range(6):
        (root / "seg" / f"frame_{number}.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"not_an_image.*frame_0"):
        run_shard(folder_config(root), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_names_that_do_not_match_show_examples_of_each_and_the_remedy(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    for path in list((root / "depth").iterdir()):
        path.rename(path.with_name(f"{path.stem}_depth.png"))
    with pytest.raises(InputError) as refused:
        open_source(folder_config(root))
    message = str(refused.value)
    for part in ("depth", "'frame_0'", "'frame_0_depth'", "data.source.depth.suffix"):
        assert part in message


def test_a_suffix_that_no_file_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file's stem ends in '_color' \(data\.source\.rgb\.suffix\)"):
        open_source(folder_config(make_folder(tmp_path / "in"), rgb={"suffix": "_color"}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda root: [p.unlink() for p in (root / "rgb").iterdir()],
            r"no file for rgb \(\.png, \.jpg, .*\); it is empty",
        ),
        (
            lambda root: Path(root / "rgb").rename(root / "colour"),
            r"data\.source\.rgb\.directory: there is no folder .*rgb.*null",
        ),
        (
            lambda root: [p.rename(p.with_suffix(".bmp")) for p in (root / "seg").iterdir()],
            r"it holds only 10 \.bmp",
        ),
        (lambda root: Image.new("RGB", (4, 4)).save(root / "rgb" / "frame_1.jpg"), r"are both 'frame_1'"),
        (lambda root: Path(root).rename(root.with_name("moved")), r"data\.source\.root: .* does not exist"),
    ],
    ids=["empty", "no folder", "other files", "name taken twice", "no root"],
)
def test_a_folder_that_is_not_there_or_empty_is_one_message(tmp_path: Path, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    root = make_folder(tmp_path / "in")
    spoil(root)
    with pytest.raises(InputError, match=said):
        open_source(folder_config(root))


def test_a_modality_folder_that_is_a_link_elsewhere_is_refused(tmp_path: Path) -> None:
    root, outside = make_folder(tmp_path / "in"), make_folder(tmp_path / "outside")
    Path(root / "rgb").rename(root / "old")
    (root / "rgb").symlink_to(outside / "rgb")
    with pytest.raises(InputError, match=r"data\.source\.rgb\.directory.*link that leads out"):
        open_source(folder_config(root))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("{", "not a JSON file"),
        ("[]", "a JSON object"),
        ('{"classes": "floor"}', "`classes` is a list"),
        ('{"classes": ["a", "a", "b"]}', "'a' is named twice"),
        ('{"splits": {"training": []}}', "`splits` maps train"),
        ('{"splits": {"train": [1]}}', "`splits.train` is a list of names"),
        ('{"splits": {"train": ["frame_1"]}}', "needs `train` and `test`"),
        ('{"splits": {"train": ["frame_1"], "test": ["frame_1"]}}', "'frame_1' is in splits train and test"),
        ('{"splits": {"train": ["x"], "test": ["y"]}}', "none of the 2 names"),
    ],
)
def test_a_bad_meta_file_is_one_message(tmp_path: Path, content: str | None, said: str) -> None:
    root = make_folder(tmp_path / "in")
    if content is not None:
        (root / "meta.json").write_text(content)
    with pytest.raises(InputError, match=said):
        open_source(folder_config(root, classes=(), meta="meta.json"))


def test_held_out_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    with pytest.raises(InputError, match=r"unknown 'cups'; did you mean 'cup'"):
        run_shard(folder_config(root, data={"held_out": {"classes": ["cups"]}}), tmp_path / "out")
    with pytest.raises(InputError, match=r"data\.held_out\.factors: unknown 'shape'"):
        run_shard(folder_config(root, data={"held_out": {"factors": {"shape": ["cube"]}}}), tmp_path / "out")


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    config = folder_config(make_folder(tmp_path / "in"), data={"held_out": {"classes": ["floor"]}})
    with pytest.raises(InputError, match=r"no sample is left for split train.*hold out less"):
        run_shard(config, tmp_path / "out")


def test_one_sample_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 samples in blocks of 1.*more samples"):
        open_source(folder_config(make_folder(tmp_path / "in", count=1)))


@pytest.mark.parametrize(("unit", "warned"), [("mm", False), ("m", True), (1e-6, True)])
def test_an_implausible_unit_is_doubted(tmp_path: Path, unit: str | float, warned: bool) -> None:
    spoken = Spoken()
    run_shard(folder_config(make_folder(tmp_path / "in"), depth={"unit": unit}), tmp_path / "out", spoken)
    assert any("is the unit of depth right?" in line for line in spoken.lines) is warned


def test_png_depth_loses_nothing_in_the_stored_unit(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    for name, encoding in (("npy", "npy"), ("png", "png")):
        run_shard(folder_config(root, data={"encoding": encoding}), tmp_path / name)
    exact, stored = (
        ShardedDataset(tmp_path / name).read("train", range(8)).modalities["depth"] for name in ("npy", "png")
    )
    np.testing.assert_allclose(exact.value.numpy(), stored.value.numpy(), rtol=1e-6)
    assert (exact.valid == stored.valid).all()


def test_keys_are_safe_unique_and_keep_names_that_are_keys() -> None:
    names = ["plain_1", "a/b", "a b", "a_b", "ü", "x" * 200, "x" * 201, "../../etc/passwd"]
    keys = unique_keys(names)
    assert keys[0] == "plain_1"
    assert keys[3] == "a_b"
    assert len(set(keys)) == len(keys)
    assert all(
        0 < len(key) <= 80
        and set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        for key in keys
    )
    assert unique_keys(["a/b", "other"])[0] == unique_keys(["a/b"])[0]


def test_the_original_name_is_kept(tmp_path: Path) -> None:
    import tarfile

    root = make_folder(tmp_path / "in")
    for modality in ("rgb", "depth", "seg"):
        Path(root / modality / "frame_0.png").rename(root / modality / "küche 0.png")
    run_shard(folder_config(root), tmp_path / "out")
    names = []
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += [
                json.load(tar.extractfile(m))["origin"] for m in tar.getmembers() if m.name.endswith(".json")
            ]  # type: ignore[arg-type]
    assert "küche 0" in names
