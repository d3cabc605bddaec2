"""Corruption: of known size and kind, never of the target, and the same whoever does it."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dataset import write

from pipeline.config.objective import Corruption
from pipeline.config.training import Augment, Loading
from pipeline.data.batch import PackedBatch
from pipeline.data.loader.arrays import Arrays, Layout
from pipeline.data.loader.batches import sequential_batches, training_batches
from pipeline.data.loader.corrupt import BLOCK, GREY, CorruptionProcess, normal_points
from pipeline.data.loader.dataset import ShardedDataset

SIZE, CLASSES = 32, 5
LAYOUT = Layout(("rgb", "depth", "seg"), SIZE, corrupted=True)
EVERYTHING = Corruption(gaussian=0.2, masking=0.3, salt_and_pepper=0.1, drop={"rgb": 0.3, "seg": 0.5})


def corrupted(process: CorruptionProcess, rows: int, epoch: int = 0, lacking: Sequence[str] = ()) -> Arrays:
    """Grey pictures at 2 m, all of one class."""
    arrays = LAYOUT.arrays(bytearray(LAYOUT.bytes_for(rows)), rows)
    for modality, value in (("rgb", 100), ("depth", 2.0), ("seg", 1)):
        arrays.value[modality][:] = value
        arrays.present[modality][:] = True
    for modality in lacking:
        for row in range(rows):
            arrays.lacks(modality, row)
    process.apply(arrays, np.full(rows, epoch), np.arange(rows))
    return arrays


def seen(process: CorruptionProcess, rows: int, epoch: int = 0, lacking: Sequence[str] = ()) -> Arrays:
    arrays = corrupted(process, rows, epoch, lacking)
    assert arrays.seen is not None
    return arrays.seen


def test_sixteen_bits_stand_for_a_normal_variable() -> None:
    points = normal_points().astype(np.float64)
    assert points.mean() == pytest.approx(0.0, abs=1e-6)
    assert points.var() == pytest.approx(1.0, abs=1e-4)
    assert (points**4).mean() == pytest.approx(3.0, abs=0.01)


def test_gaussian_noise_has_the_standard_deviation_asked_for_and_leaves_labels_alone() -> None:
    result = seen(CorruptionProcess(seed=1, classes=CLASSES, gaussian=0.1), rows=20)
    error = result.value["rgb"].astype(np.float64) - 100
    assert error.std() == pytest.approx(25.5, rel=0.01)
    assert error.mean() == pytest.approx(0.0, abs=0.3)
    logarithm = np.log(result.value["depth"] / 2)
    assert logarithm.std() == pytest.approx(0.1, rel=0.02)
    assert np.corrcoef(error[..., 0].ravel(), logarithm.ravel())[0, 1] == pytest.approx(0.0, abs=0.03)
    assert np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1] == pytest.approx(0.0, abs=0.03)
    assert (result.value["seg"] == 1).all()


def test_noise_is_clipped_as_a_sensor_would() -> None:
    values = seen(CorruptionProcess(seed=1, classes=CLASSES, gaussian=2.0), rows=5).value["rgb"]
    below, above = (values == 0).mean(), (values == 255).mean()
    assert below == pytest.approx(0.422, abs=0.02)  # Phi(-99.5 / 510)
    assert above == pytest.approx(0.381, abs=0.02)  # 1 - Phi(154.5 / 510)


def test_masking_hides_whole_blocks_of_the_share_asked_for() -> None:
    result = seen(CorruptionProcess(seed=2, classes=CLASSES, masking=0.25), rows=200)
    hidden = {
        "rgb": (result.value["rgb"] == GREY).all(axis=-1),
        "depth": np.isnan(result.value["depth"]),
        "seg": result.value["seg"] == 255,
    }
    for modality, mask in hidden.items():
        blocks = mask.reshape(200, SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK)
        share = blocks.mean(axis=(2, 4))
        assert set(np.unique(share)) == {0.0, 1.0}, modality
        assert share.mean() == pytest.approx(0.25, abs=0.03)
    assert (hidden["rgb"] & hidden["depth"]).mean() == pytest.approx(1 / 16, abs=0.015)


def test_salt_and_pepper_has_its_known_shares() -> None:
    result = seen(CorruptionProcess(seed=3, classes=CLASSES, salt_and_pepper=0.2), rows=30)
    rgb = result.value["rgb"]
    for extreme in (0, 255):
        assert (rgb == extreme).all(axis=-1).mean() == pytest.approx(0.1, abs=0.01)
    assert (rgb == 100).all(axis=-1).mean() == pytest.approx(0.8, abs=0.01)
    assert np.isnan(result.value["depth"]).mean() == pytest.approx(0.2, abs=0.01)
    labels = np.bincount(result.value["seg"].ravel(), minlength=CLASSES) / result.value["seg"].size
    assert len(labels) == CLASSES
    np.testing.assert_allclose(labels, [0.04, 0.84, 0.04, 0.04, 0.04], atol=0.01)


def test_a_pixel_without_a_label_never_gets_one() -> None:
    arrays = LAYOUT.arrays(bytearray(LAYOUT.bytes_for(1)), 1)
    arrays.value["seg"][:] = 255
    arrays.present["seg"][:] = True
    CorruptionProcess(0, CLASSES, salt_and_pepper=1.0).apply(arrays, np.zeros(1, int), np.zeros(1, int))
    assert arrays.seen is not None
    assert (arrays.seen.value["seg"] == 255).all()


@pytest.mark.parametrize("lacking", [(), ("rgb",), ("rgb", "seg")])
def test_dropping_never_hides_everything(lacking: Sequence[str]) -> None:
    always = {"rgb": 1.0, "depth": 1.0, "seg": 1.0}
    result = seen(CorruptionProcess(seed=4, classes=CLASSES, drop=always), rows=300, lacking=lacking)
    left = np.stack([result.present[modality] for modality in LAYOUT.modalities])
    assert (left.sum(axis=0) == 1).all()
    for modality, present in zip(LAYOUT.modalities, left, strict=True):
        expected = 0.0 if modality in lacking else 1 / (3 - len(lacking))
        assert present.mean() == pytest.approx(expected, abs=0.1)


def test_dropping_has_the_shares_asked_for() -> None:
    result = seen(CorruptionProcess(seed=5, classes=CLASSES, drop={"depth": 0.3, "seg": 0.6}), rows=2000)
    assert result.present["rgb"].all()
    assert result.present["depth"].mean() == pytest.approx(0.7, abs=0.03)
    assert result.present["seg"].mean() == pytest.approx(0.4, abs=0.03)
    both = ~result.present["depth"] & ~result.present["seg"]
    assert both.mean() == pytest.approx(0.18, abs=0.03)
    gone = ~result.present["depth"]
    assert np.isnan(result.value["depth"][gone]).all()


def test_another_epoch_another_damage_and_the_same_again() -> None:
    process = CorruptionProcess(seed=6, classes=CLASSES, gaussian=0.1, masking=0.5)
    first, again, later = seen(process, 4), seen(process, 4), seen(process, 4, epoch=1)
    np.testing.assert_array_equal(first.value["rgb"], again.value["rgb"])
    assert (first.value["rgb"] != later.value["rgb"]).mean() > 0.4
    assert (first.value["rgb"][0] != first.value["rgb"][1]).mean() > 0.4


def test_the_target_is_not_touched() -> None:
    process = CorruptionProcess(seed=0, classes=CLASSES, gaussian=0.5, masking=0.5, drop={"seg": 0.9})
    arrays = corrupted(process, 8)
    assert (arrays.value["rgb"] == 100).all()
    assert (arrays.value["depth"] == 2).all()
    assert (arrays.value["seg"] == 1).all()
    assert all(present.all() for present in arrays.present.values())


def stream(
    directory: Path, *, rank: int = 0, size: int = 1, seen: int = 0, workers: int = 0, cache: float = 0.0
) -> list[PackedBatch]:
    batches = training_batches(
        ShardedDataset(directory),
        "train",
        seed=3,
        global_batch=8,
        samples_seen=seen,
        world_rank=rank,
        world_size=size,
        loading=Loading(workers=workers, cache_gib=cache),
        augment=Augment(flip=0.5),
        corruption=EVERYTHING,
    )
    with closing(batches):
        return list(islice(batches, 6))


def same(one: PackedBatch, other: PackedBatch) -> bool:
    """In all samples and all that is seen of them."""
    assert one.seen is not None
    assert other.seen is not None
    pairs = [(one, other), (one.seen, other.seen)]
    return all(
        torch.equal(a.has[name], b.has[name])
        and torch.equal(a.value[name].nan_to_num(-1.0), b.value[name].nan_to_num(-1.0))
        for a, b in pairs
        for name in one.value
    )


def rows(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Batches one after the other."""

    def joined(parts: Sequence[PackedBatch], inner: PackedBatch | None) -> PackedBatch:
        return PackedBatch(
            {name: torch.cat([part.value[name] for part in parts]) for name in parts[0].value},
            {name: torch.cat([part.has[name] for part in parts]) for name in parts[0].has},
            tuple(key for part in parts for key in part.key),
            torch.cat([part.index for part in parts]),
            seen=inner,
        )

    return joined(batches, joined([part.seen for part in batches if part.seen is not None], None))


def test_what_is_seen_does_not_depend_on_processes_workers_memory_or_resumption(tmp_path: Path) -> None:
    write(tmp_path)
    alone = stream(tmp_path)
    assert len({int(batch.index[0]) for batch in alone}) > 1
    for halves in zip(stream(tmp_path, rank=0, size=2), stream(tmp_path, rank=1, size=2), strict=True):
        whole = alone.pop(0)
        assert same(rows(halves), rows([whole]))
    alone = stream(tmp_path)
    for other in (stream(tmp_path, workers=1), stream(tmp_path, cache=0.1)):
        assert all(same(one, two) for one, two in zip(alone, other, strict=True))
    assert all(same(one, two) for one, two in zip(alone[2:], stream(tmp_path, seen=16), strict=False))


def test_a_batch_carries_what_encoders_see_beside_the_samples(tmp_path: Path) -> None:
    write(tmp_path)
    packed = stream(tmp_path)[0]
    batch = packed.unpack()
    assert batch.seen is not None
    assert batch.inputs() is batch.seen
    assert batch.seen.key == batch.key
    hidden = batch.present() & ~batch.inputs().present()
    assert hidden.any()
    assert (batch.inputs().present().sum(dim=0) > 0).all()
    seg = batch.seen.modalities["seg"]
    assert not seg.valid[~seg.present].any()
    part = batch.rows(2, 5)
    assert part.seen is not None
    assert torch.equal(part.seen.modalities["rgb"].value, batch.seen.modalities["rgb"].value[2:5])
    assert part.to("cpu").seen is not None


def test_without_corruption_encoders_see_the_samples(tmp_path: Path) -> None:
    write(tmp_path)
    (batch, *_) = sequential_batches(ShardedDataset(tmp_path), "test", 4)
    assert batch.seen is None
    assert batch.inputs() is batch


def test_evaluation_sees_the_same_damage_every_time(tmp_path: Path) -> None:
    write(tmp_path)
    process = CorruptionProcess(1, 3, gaussian=0.1)
    whole, *_ = sequential_batches(ShardedDataset(tmp_path), "test", 4, corruption=process)
    parts = list(sequential_batches(ShardedDataset(tmp_path), "test", 2, corruption=process))
    clean, *_ = sequential_batches(ShardedDataset(tmp_path), "test", 4)
    in_parts = torch.cat([part.inputs().modalities["rgb"].value for part in parts])
    assert torch.equal(whole.inputs().modalities["rgb"].value, in_parts)
    assert torch.equal(whole.modalities["rgb"].value, clean.modalities["rgb"].value)
    assert not torch.equal(whole.inputs().modalities["rgb"].value, clean.modalities["rgb"].value)
