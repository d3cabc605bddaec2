"""Batches hold what was written, in an order that is known in advance."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dataset import CLASSES, SIZE, sample, write

from pipeline.data.batch import Batch, PackedBatch
from pipeline.data.loader.batches import sequential_batches, training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.loader.prefetch import prefetched
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError


def batches(
    dataset: ShardedDataset, count: int, *, seen: int = 0, rank: int = 0, size: int = 1, batch: int = 8
) -> list[PackedBatch]:
    stream = training_batches(
        dataset, "train", seed=3, global_batch=batch, samples_seen=seen, world_rank=rank, world_size=size
    )
    taken = list(islice(stream, count))
    stream.close()
    return taken


def keys(taken: list[PackedBatch] | list[Batch]) -> list[str]:
    return [key for batch in taken for key in batch.key]


@pytest.mark.parametrize("encoding", ["npy", "png"])
def test_a_batch_holds_what_was_written(tmp_path: Path, encoding: str) -> None:
    info = write(tmp_path, encoding=encoding)
    batch = ShardedDataset(tmp_path).read("train", [5, 0, 19])
    assert batch.key == ("n00005", "n00000", "n00019")
    assert batch.index.tolist() == [5, 0, 19]
    assert batch.factors is not None
    assert batch.factors.tolist() == [[1, 2], [0, 0], [1, 1]]
    for row, number in enumerate((5, 0, 19)):
        expected = sample(number)
        rgb, depth, seg = (batch.modalities[m] for m in ("rgb", "depth", "seg"))
        np.testing.assert_array_equal(rgb.value[row].permute(1, 2, 0).mul(255).round().numpy(), expected.rgb)
        np.testing.assert_array_equal(depth.valid[row].numpy(), ~np.isnan(expected.depth))
        tolerance_m = 0 if encoding == "npy" else info.depth_scale_m / 2 + 1e-6
        np.testing.assert_allclose(
            depth.value[row, 0].numpy(), np.nan_to_num(expected.depth), atol=tolerance_m
        )
        np.testing.assert_array_equal(seg.value[row].numpy(), expected.seg)
        np.testing.assert_array_equal(seg.valid[row].numpy(), expected.seg != 255)
    assert all(modality.present.all() for modality in batch.modalities.values())


def test_values_have_the_promised_types_and_shapes(tmp_path: Path) -> None:
    write(tmp_path)
    batch = ShardedDataset(tmp_path).read("test", np.arange(2))
    assert list(batch.modalities) == ["rgb", "depth", "seg"]
    shapes = {name: (m.value.dtype, tuple(m.value.shape)) for name, m in batch.modalities.items()}
    assert shapes == {
        "rgb": (torch.float32, (2, 3, SIZE, SIZE)),
        "depth": (torch.float32, (2, 1, SIZE, SIZE)),
        "seg": (torch.int64, (2, SIZE, SIZE)),
    }
    assert all(m.value.is_contiguous() for m in batch.modalities.values())


def test_a_row_without_a_modality_is_absent_and_invalid_and_filled(tmp_path: Path) -> None:
    lacking = [
        sample(0),
        sample(1, rgb=False),
        sample(2, depth=False),
        sample(3, seg=False),
        sample(4, rgb=False, depth=False),
    ]
    write_dataset(tmp_path, [("train", item) for item in lacking], class_names=CLASSES, image_size=SIZE)
    batch = ShardedDataset(tmp_path).read("train", range(5))
    assert batch.present().tolist() == [
        [True, False, True, True, False],
        [True, True, False, True, False],
        [True, True, True, False, True],
    ]
    for name, filler in (("rgb", 0), ("depth", 0), ("seg", 255)):
        modality = batch.modalities[name]
        assert not modality.valid[~modality.present].any()
        assert (modality.value[~modality.present] == filler).all()


def test_a_dataset_without_a_modality_has_no_entry_for_it(tmp_path: Path) -> None:
    write_dataset(
        tmp_path, [("train", sample(n, seg=False)) for n in range(3)], class_names=CLASSES, image_size=SIZE
    )
    dataset = ShardedDataset(tmp_path)
    assert list(dataset.read("train", [0]).modalities) == ["rgb", "depth"]
    assert dataset.info.class_names == ()


def test_rows_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = ShardedDataset(tmp_path)
    for split, rows in (("train", [20]), ("train", [-1]), ("val", [0])):
        with pytest.raises(IndexError, match=split):
            dataset.read(split, rows)
    assert dataset.length("val") == 0


def test_sequential_batches_come_in_stored_order_and_end(tmp_path: Path) -> None:
    write(tmp_path, train=20)
    dataset = ShardedDataset(tmp_path)
    assert [len(batch) for batch in sequential_batches(dataset, "train", 8)] == [8, 8, 4]
    assert keys(list(sequential_batches(dataset, "train", 8))) == [f"n{n:05d}" for n in range(20)]
    assert [len(batch) for batch in sequential_batches(dataset, "train", 8, limit=10)] == [8, 2]


def test_batches_straddle_epochs_and_drop_nothing(tmp_path: Path) -> None:
    write(tmp_path, train=20)
    seen = keys(batches(ShardedDataset(tmp_path), 10, batch=8))
    everything = sorted(f"n{n:05d}" for n in range(20))
    for epoch in range(4):
        assert sorted(seen[20 * epoch : 20 * epoch + 20]) == everything


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_share_the_batches_of_one(tmp_path: Path, size: int) -> None:
    write(tmp_path, train=20)
    dataset = ShardedDataset(tmp_path)
    alone = batches(dataset, 6, batch=8)
    shared = [batches(dataset, 6, batch=8, rank=rank, size=size) for rank in range(size)]
    for step in range(6):
        together = [key for rank in range(size) for key in shared[rank][step].key]
        assert together == list(alone[step].key)


@pytest.mark.parametrize("steps_before", [1, 2, 3, 7])
def test_going_on_after_a_stop_needs_only_the_samples_seen(tmp_path: Path, steps_before: int) -> None:
    write(tmp_path, train=20)
    whole = keys(batches(ShardedDataset(tmp_path), 10, batch=8))
    resumed = keys(batches(ShardedDataset(tmp_path), 10 - steps_before, batch=8, seen=8 * steps_before))
    assert resumed == whole[8 * steps_before :]


def test_epochs_and_seeds_have_different_orders(tmp_path: Path) -> None:
    write(tmp_path, train=20)
    dataset = ShardedDataset(tmp_path)
    seen = keys(batches(dataset, 5, batch=8))
    assert seen[:20] != seen[20:40]
    assert seen[:20] != sorted(seen[:20])
    other = training_batches(
        dataset, "train", seed=4, global_batch=8, samples_seen=0, world_rank=0, world_size=1
    )
    assert keys(list(islice(other, 5))) != seen
    other.close()


def test_a_batch_may_be_larger_than_the_split(tmp_path: Path) -> None:
    write(tmp_path, train=5)
    first = batches(ShardedDataset(tmp_path), 1, batch=12)[0]
    assert len(first) == 12
    counts = np.bincount(first.index.numpy(), minlength=5)
    assert counts.min() >= 2
    assert counts.sum() == 12


def test_a_batch_that_processes_cannot_share_is_refused_with_a_remedy(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match=r"train\.batch is 10.*3 processes.*use 12"):
        batches(ShardedDataset(tmp_path), 1, size=3, batch=10)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="no val samples"):
        training_batches(
            ShardedDataset(tmp_path),
            "val",
            seed=0,
            global_batch=2,
            samples_seen=0,
            world_rank=0,
            world_size=1,
        )


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_closing_the_stream_ends_its_thread(tmp_path: Path) -> None:
    write(tmp_path)
    stream = training_batches(
        ShardedDataset(tmp_path), "train", seed=0, global_batch=4, samples_seen=0, world_rank=0, world_size=1
    )
    next(stream)
    assert len(prefetch_threads()) == 1
    stream.close()
    assert not prefetch_threads()


def test_the_thread_stays_only_a_few_batches_ahead() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number

    stream = prefetched(numbers(), ahead=3)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    stream.close()


def test_an_error_in_the_thread_is_raised_where_batches_are_consumed() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    stream = prefetched(numbers(), ahead=2)
    assert next(stream) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(stream)
    assert not prefetch_threads()


def test_a_finite_stream_ends() -> None:
    assert list(prefetched(iter(range(10)), ahead=2)) == list(range(10))
    assert not prefetch_threads()


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = ShardedDataset(tmp_path)
    with (tmp_path / "train-000001.tar").open("r+b") as tar:
        tar.truncate(1000)
    with pytest.raises(InputError, match=r"train-000001\.tar"):
        dataset.read("train", [7])


def test_a_member_that_cannot_be_decoded_names_shard_and_key(tmp_path: Path) -> None:
    write(tmp_path, encoding="png")
    shard = tmp_path / "train-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"IHDR", b"XXXX"))
    reseal(tmp_path)
    with pytest.raises(InputError, match=r"train-000000\.tar, key n00002, rgb"):
        ShardedDataset(tmp_path).read("train", [2])


def reseal(directory: Path) -> None:
    """Make the description say that changed tars are what was meant."""
    path = directory / "dataset.json"
    description = json.loads(path.read_text())
    for name, shard in description["shards"].items():
        content = (directory / name).read_bytes()
        shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(description))


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    write(tmp_path, train=200, shard_samples=1)
    dataset = ShardedDataset(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    batch = dataset.read("train", np.arange(200))
    assert batch.key[199] == "n00199"
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
    dataset.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert dataset.read("train", [3]).key == ("n00003",)


WITHOUT_PANDAS = """
import sys
from pathlib import Path
from pipeline.data.loader.dataset import ShardedDataset
batch = ShardedDataset(Path(sys.argv[1])).read("train", [3, 1])
assert batch.key == ("n00003", "n00001")
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"pandas"}))
"""


def test_reading_does_not_import_pandas(tmp_path: Path) -> None:
    """PyArrow would, at the first conversion, and take two seconds for it."""
    write(tmp_path, encoding="npy.zst")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PANDAS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
