"""Several datasets in one order: in the right proportions, whole, and without looking back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import CLASSES, SIZE, sample, write

from pipeline.config.training import Loading, MixedDataset
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.loader.mixture import BLOCK_POSITIONS, Mixture, shares
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[ShardedDataset]:
    home = tmp_path_factory.mktemp("two")
    write(home / "own", train=50)
    write(home / "other", train=30, shard_samples=4)
    return [ShardedDataset(home / "own"), ShardedDataset(home / "other")]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(1, 5000))
def test_shares_add_up_and_are_nearest_to_the_weights(weights: list[float], total: int) -> None:
    counts = shares(weights, total)
    assert sum(counts) == total
    assert all(
        abs(count - weight / sum(weights) * total) < 1 + 1e-6
        for count, weight in zip(counts, weights, strict=True)
    )


def test_every_block_holds_the_same_share_of_each(two: list[ShardedDataset]) -> None:
    chosen = Mixture(two, [1.0, 0.25], "train", seed=0).at(0, 3 * BLOCK_POSITIONS)
    counts = [
        (chosen.dataset[start : start + BLOCK_POSITIONS] == 1).sum()
        for start in range(0, 3 * BLOCK_POSITIONS, BLOCK_POSITIONS)
    ]
    assert counts == [round(BLOCK_POSITIONS / 5)] * 3
    assert (chosen.dataset[:BLOCK_POSITIONS] != chosen.dataset[BLOCK_POSITIONS : 2 * BLOCK_POSITIONS]).any()


def test_within_a_mixture_each_dataset_keeps_its_own_order_and_epochs(two: list[ShardedDataset]) -> None:
    chosen = Mixture(two, [1.0, 0.5], "train", seed=3).at(0, 500)
    for number, dataset in enumerate(two):
        here = chosen.dataset == number
        rows = chosen.row[here]
        np.testing.assert_array_equal(rows, dataset.order("train", 3).rows(0, len(rows)))
        length = dataset.length("train")
        for epoch in range(len(rows) // length):
            assert sorted(rows[epoch * length : (epoch + 1) * length]) == list(range(length))
        np.testing.assert_array_equal(chosen.epoch[here], np.arange(len(rows)) // length)
    assert (chosen.sample == chosen.row + np.where(chosen.dataset == 1, 50, 0)).all()


@given(st.integers(0, 5000), st.integers(1, 3000))
@settings(deadline=None, max_examples=30)
def test_any_position_is_known_without_those_before_it(
    two: list[ShardedDataset], position: int, count: int
) -> None:
    mixture = Mixture(two, [1.0, 0.7], "train", seed=1)
    chosen, whole = mixture.at(position, count), mixture.at(0, position + count)
    np.testing.assert_array_equal(chosen.sample, whole.sample[position:])
    np.testing.assert_array_equal(chosen.epoch, whole.epoch[position:])


def start(own: Path, *others: Path, weight: float = 1.0, loading: Loading | None = None) -> None:
    training_batches(
        ShardedDataset(own),
        "train",
        seed=0,
        global_batch=8,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        loading=loading,
        mix=[MixedDataset(dataset=other, weight=weight) for other in others],
    ).close()


def test_what_does_not_fit_together_is_refused_by_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "own")

    def refused(name: str, message: str, names=CLASSES, size: int = SIZE, **lacking: bool) -> None:
        items = [("train", sample(n, size=size, **lacking)) for n in range(3)]
        write_dataset(tmp_path / name, items, class_names=names, image_size=size)
        with pytest.raises(InputError, match=message):
            start(tmp_path / "own", tmp_path / name)

    refused("large", "16 px, the run's are 8 px", size=16)
    refused("named", "class 1 is door, the run's is wall", names=("floor", "door", "thing"))
    refused("longer", "it has 4 classes, the run's has 3", names=(*CLASSES, "more"))
    with pytest.raises(InputError, match="less than one sample in 1024"):
        start(tmp_path / "own", tmp_path / "own", weight=1e-4)
    with pytest.raises(InputError, match=r"streams is 2, but with train\.mix"):
        start(tmp_path / "own", tmp_path / "own", loading=Loading(streams=2))


def test_a_mixed_dataset_may_lack_a_modality_but_not_bring_one(tmp_path: Path) -> None:
    write(tmp_path / "own")
    only_rgb = [("train", sample(n, depth=False, seg=False)) for n in range(5)]
    write_dataset(tmp_path / "rgb", only_rgb, class_names=None, image_size=SIZE)
    stream = training_batches(
        ShardedDataset(tmp_path / "own"),
        "train",
        seed=0,
        global_batch=64,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        mix=[MixedDataset(dataset=tmp_path / "rgb")],
    )
    batch = next(stream).unpack()
    stream.close()
    foreign = batch.index >= 20
    assert foreign.any()
    depth = batch.modalities["depth"]
    assert depth.present.tolist() == (~foreign).tolist()
    assert not depth.valid[foreign].any()
    assert (batch.modalities["seg"].value[foreign] == 255).all()
    with pytest.raises(InputError, match="it has depth and seg, which the run's dataset lacks"):
        start(tmp_path / "rgb", tmp_path / "own")
