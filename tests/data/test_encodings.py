"""How arrays are stored: exactly unless asked otherwise, in the same bytes, and readable by everybody."""

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds
from noise_source import catalogue, config, noise, run_noise
from PIL import Image
from small_dataset import sample, write

from pipeline.config.data import Data
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import MODALITIES
from pipeline.data.shards.dataset import decode_sample
from pipeline.data.shards.members import (
    WORTH_ZSTD,
    decode,
    encode_array,
    encodings_for,
    lossy_modalities,
)

ALL = [
    {"rgb": "npy", "depth": "npy", "seg": "npy"},
    {"rgb": "npy.zst", "depth": "npy.zst", "seg": "npy.zst"},
    {"rgb": "png", "depth": "png", "seg": "png"},
    {"rgb": "jpg", "depth": "npy.zst", "seg": "png"},
]


def whole_depth(number: int) -> np.ndarray:
    """Metres as a source in millimetres has them, with holes."""
    units = np.random.default_rng(number).integers(0, 65536, (32, 32))
    return np.where(units == 0, np.nan, units * 0.001).astype(np.float32)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset and its files
@pytest.mark.parametrize("encoding", ALL)
def test_every_encoding_is_read_by_us_and_by_plain_webdataset(
    tmp_path: Path, encoding: dict[str, str]
) -> None:
    info = write(tmp_path, train=9, encoding=encoding)  # type: ignore[arg-type]
    dataset = ShardedDataset(tmp_path)
    ours = dataset.read("train", range(9)).modalities
    shards = sorted(str(path) for path in tmp_path.glob("train-*.tar"))
    with tarfile.open(shards[0]) as tar:
        assert tar.getnames()[:3] == [f"n00000.{m}.{encoding[m]}" for m in MODALITIES]
    decoded = partial(decode_sample, depth_scale_m=info.depth_scale_m)
    read = list(wds.WebDataset(shards, shardshuffle=False).map(decoded))
    assert [item["__key__"] for item in read] == [f"n{number:05d}" for number in range(9)]
    for number, item in enumerate(read):
        exact = sample(number)
        assert exact.rgb is not None
        np.testing.assert_array_equal(item["seg"], exact.seg)
        off_m = info.depth_scale_m / 2 + 1e-6 if encoding["depth"] == "png" else 0
        np.testing.assert_allclose(item["depth"], exact.depth, atol=off_m, rtol=0)
        # Noise is the worst there is for JPEG.
        off = 100 if encoding["rgb"] == "jpg" else 0
        np.testing.assert_allclose(item["rgb"].astype(int), exact.rgb.astype(int), atol=off)
        np.testing.assert_array_equal(
            (ours["rgb"].value[number].numpy() * 255).round().transpose(1, 2, 0), item["rgb"]
        )
        np.testing.assert_array_equal(ours["seg"].value[number].numpy(), item["seg"])
        valid = ours["depth"].valid[number].numpy()
        np.testing.assert_array_equal(valid, np.isfinite(item["depth"]))
        np.testing.assert_array_equal(ours["depth"].value[number, 0].numpy()[valid], item["depth"][valid])


@pytest.mark.parametrize("suffix", ["npy", "npy.zst", "png"])
def test_depth_of_whole_units_comes_back_bit_for_bit(suffix: str) -> None:
    depth = whole_depth(3)
    content = encode_array("depth", suffix, depth, 0.001)
    assert content == encode_array("depth", suffix, depth.copy(), 0.001)
    np.testing.assert_array_equal(decode("depth", suffix, content, 0.001), depth)


@pytest.mark.parametrize("unit_m", [0.001, 0.0001, 0.01, 1 / 256, 0.00025])
def test_every_whole_number_of_units_survives_a_depth_png(unit_m: float) -> None:
    depth = (np.arange(65536).reshape(256, 256) * unit_m).astype(np.float32)
    depth[0, 0] = np.nan
    content = encode_array("depth", "png", depth, unit_m)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content)))[0, 1:], np.arange(1, 256))
    np.testing.assert_array_equal(decode("depth", "png", content, unit_m), depth)


@pytest.mark.parametrize(("size", "suffix"), [(32, "npy"), (64, "npy"), (128, "npy.zst"), (256, "npy.zst")])
def test_auto_is_chosen_by_size_and_never_loses_anything(size: int, suffix: str) -> None:
    assert encodings_for("auto", size) == dict.fromkeys(MODALITIES, suffix)
    assert encodings_for({"rgb": "jpg"}, size) == {"rgb": "jpg", "depth": suffix, "seg": suffix}
    assert lossy_modalities(encodings_for("auto", size), whole_depth=False) == ()


def test_what_is_lossy_is_said_in_the_dataset(tmp_path: Path) -> None:
    splits = ["train"] * 9 + ["test"] * 3
    lossy = {"rgb": "jpg", "depth": "png"}
    for name, whole, expected in (("float", False, ["rgb", "depth"]), ("whole", True, ["rgb"])):
        source = catalogue(noise(12), splits, whole_depth=whole)
        run_noise(tmp_path / name, source, config(encoding=lossy))
        described = json.loads((tmp_path / name / "dataset.json").read_text())
        assert described["lossy"] == expected
        assert described["members"] == {"rgb": "rgb.jpg", "depth": "depth.png", "seg": "seg.npy"}


def test_a_depth_map_cannot_be_a_jpg() -> None:
    with pytest.raises(ValueError, match=r"encoding"):
        Data.model_validate({"source": {"kind": "rooms"}, "encoding": {"depth": "jpg"}})
    with pytest.raises(ValueError, match="depth cannot be stored as jpg"):
        encode_array("depth", "jpg", whole_depth(1), 0.001)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a zstd frame"),
        (b"\x93NUMPY", "not a zstd frame"),
        (b"\x28\xb5\x2f\xfd\x00\x58\x00\x00", "does not say its size"),
        (b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x00" * 9, "too large"),
        (pa.Codec("zstd").compress(b"no array at all", asbytes=True), "magic string"),
    ],
)
def test_a_compressed_member_that_is_none_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode("rgb", "npy.zst", content, 0.001)


@pytest.mark.parametrize("size", [300, 2_000, 70_000, 200_000])
def test_compressed_arrays_of_every_size_are_read(size: int) -> None:
    array = np.random.default_rng(size).integers(0, 4, (size,)).astype(np.uint8)
    content = encode_array("seg", "npy.zst", array, 0.001)
    np.testing.assert_array_equal(decode("seg", "npy.zst", content, 0.001), array)
    assert len(content) < size


@pytest.mark.parametrize("size", [32, 128, 256])
def test_only_what_shrinks_a_good_deal_is_compressed(size: int) -> None:
    """Decompressing a camera's RGB takes longer than reading the quarter of it that was saved."""
    rng = np.random.default_rng(size)
    across = np.linspace(0, 200, size)[None, :, None]
    flat = np.broadcast_to(across, (size, size, 3)).astype(np.uint8)
    camera = (across + rng.normal(0, 8, (size, size, 3)) + 30).clip(0, 255).astype(np.uint8)
    for array, shrinks in ((flat, True), (camera, False)):
        content = encode_array("rgb", "npy.zst", array, 0.001)
        if shrinks:
            assert len(content) < WORTH_ZSTD * array.nbytes
        else:
            assert array.tobytes()[:1000] in content
            assert len(content) < array.nbytes + 200
        np.testing.assert_array_equal(decode("rgb", "npy.zst", content, 0.001), array)
    with_zstd = pa.decompress(content, decompressed_size=array.nbytes + 128, codec="zstd")
    np.testing.assert_array_equal(np.load(io.BytesIO(with_zstd)), array)


def test_a_depth_picture_of_eight_bits_is_refused() -> None:
    content = encode_array("seg", "png", np.zeros((4, 4), np.uint8), 0.001)
    with pytest.raises(ValueError, match="uint8, not uint16"):
        decode("depth", "png", content, 0.001)
