"""From any folder of pictures to batches: nothing is lost, doubled or mixed up, in any world."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from drawn_folder import Drawn, drawn_folders, make_dataset, number_of, truth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.training import Loading
from pipeline.data.batch import PackedBatch
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import MODALITIES
from stages import shard

SEEDS = st.integers(0, 2**40)
WORLDS = st.integers(1, 4)
some_examples = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    """Of a dataset's charts nothing is asked here, and they take longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "leave_pictures", lambda *_: {})
        yield


@contextmanager
def opened(drawn: Drawn) -> Iterator[ShardedDataset]:
    """The dataset made of a folder."""
    with (
        tempfile.TemporaryDirectory() as home,
        closing(ShardedDataset(make_dataset(drawn, Path(home)))) as it,
    ):
        yield it


def read_by_all(
    dataset: ShardedDataset, seed: int, local: int, world: int, *, seen: int = 0, steps: int, workers: int = 0
) -> list[PackedBatch]:
    """What the processes of a world read, step by step and rank by rank."""
    streams = [
        training_batches(
            dataset,
            "train",
            seed=seed,
            global_batch=local * world,
            samples_seen=seen,
            world_rank=rank,
            world_size=world,
            loading=Loading(workers=workers),
        )
        for rank in range(world)
    ]
    taken = []
    for stream in streams:
        with closing(stream):
            taken.append(list(islice(stream, steps)))
    return [batch for step in zip(*taken, strict=True) for batch in step]


def keys(batches: list[PackedBatch]) -> list[str]:
    return [key for batch in batches for key in batch.key]


def assert_true(batch: PackedBatch, drawn: Drawn) -> None:
    """Every row holds what was drawn for it, says what it lacks, and has its filler there."""
    for row, key in enumerate(batch.key):
        number = number_of(key)
        assert {m for m in batch.value if batch.has[m][row]} == drawn.has[number]
        for modality, values in batch.value.items():
            if modality in drawn.has[number]:
                expected = truth(modality, number)
            else:
                expected = np.full_like(
                    truth(modality, number), {"rgb": 0, "depth": np.nan, "seg": 255}[modality]
                )
            np.testing.assert_array_equal(values[row].numpy(), expected)


@given(drawn_folders())
@some_examples
def test_every_sample_of_a_folder_is_in_one_split_with_exactly_what_it_has(drawn: Drawn) -> None:
    with opened(drawn) as dataset:
        assert dataset.info.quarantine == {}
        assert list(dataset.info.modalities) == drawn.declared()
        found = {}
        for split, count in dataset.info.counts.items():
            batch = dataset.packed(split, range(count))
            assert_true(batch, drawn)
            assert not found.keys() & set(map(number_of, batch.key))
            found |= dict.fromkeys(map(number_of, batch.key), split)
        assert sorted(found) == list(range(len(drawn.has)))
        if drawn.layout in ("splits", "cityscapes"):
            assert tuple(found[number] for number in sorted(found)) == drawn.splits


@given(drawn_folders(), SEEDS, WORLDS, st.integers(1, 5))
@some_examples
def test_all_processes_together_read_each_sample_once_per_epoch(
    drawn: Drawn, seed: int, world: int, local: int
) -> None:
    with opened(drawn) as dataset:
        count = dataset.length("train")
        batches = read_by_all(dataset, seed, local, world, steps=-(-3 * count // (local * world)))
        for batch in batches:
            assert_true(batch, drawn)
        read = keys(batches)
        every = sorted(dataset.packed("train", range(count)).key)
        for epoch in range(3):
            assert sorted(read[epoch * count : (epoch + 1) * count]) == every


@given(drawn_folders(), SEEDS, WORLDS, WORLDS, st.integers(1, 3), st.integers(0, 60))
@some_examples
def test_any_world_goes_on_where_any_other_stopped(
    drawn: Drawn, seed: int, before: int, after: int, local: int, seen: int
) -> None:
    """`seen` need not be a multiple of either's batch."""
    with opened(drawn) as dataset:
        ahead = 2 * dataset.length("train")
        batch = before * local
        whole = keys(read_by_all(dataset, seed, local, before, steps=-(-(seen + ahead) // batch)))
        steps = -(-ahead // (after * 2))
        later = keys(read_by_all(dataset, seed, 2, after, seen=seen, steps=steps))
        assert later[:ahead] == whole[seen : seen + ahead]


@pytest.mark.slow
@given(drawn_folders(), SEEDS, st.sampled_from([1, 2]), st.integers(1, 3), st.integers(0, 20))
@settings(some_examples, max_examples=2)
def test_worker_processes_make_the_batches_that_a_thread_makes(
    drawn: Drawn, seed: int, world: int, workers: int, seen: int
) -> None:
    with opened(drawn) as dataset:
        alone = read_by_all(dataset, seed, 3, world, seen=seen, steps=6)
        shared = read_by_all(dataset, seed, 3, world, seen=seen, steps=6, workers=workers)
        assert [batch.key for batch in shared] == [batch.key for batch in alone]
        for batch in shared:
            assert_true(batch, drawn)
        assert all(m in MODALITIES for batch in shared for m in batch.value)
