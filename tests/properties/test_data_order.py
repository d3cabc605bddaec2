"""The order of training data, for any dataset, world and place to resume."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.loader.order import WINDOW_SHARDS, Order, epoch_order

SHARD_SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=25)
SEEDS = st.integers(0, 2**40)


def starts(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def rank_rows(order: Order, step: int, global_batch: int, rank: int, world: int) -> list[int]:
    """What the loader reads for one rank of one step."""
    local = global_batch // world
    return order.rows(step * global_batch + rank * local, local).tolist()


@given(SHARD_SIZES, SEEDS, st.integers(0, 50))
@settings(deadline=None, max_examples=50)
def test_an_epoch_has_every_row_once(sizes: list[int], seed: int, epoch: int) -> None:
    order = epoch_order(starts(sizes), seed, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))


@given(SHARD_SIZES, SEEDS, st.sampled_from([1, 2, 3, 4]), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_all_ranks_together_see_each_row_once_per_epoch(
    sizes: list[int], seed: int, world: int, local: int
) -> None:
    count = sum(sizes)
    global_batch = world * local
    order = Order(starts(sizes), seed)
    steps = 2 * count  # whole epochs, since 2 * count * global_batch is a multiple of count
    seen = [
        row
        for step in range(steps)
        for rank in range(world)
        for row in rank_rows(order, step, global_batch, rank, world)
    ]
    for epoch in range(2 * global_batch):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(SHARD_SIZES, SEEDS, st.integers(1, 6), st.integers(0, 40))
@settings(deadline=None, max_examples=50)
def test_the_order_is_the_same_for_one_two_and_four_processes(
    sizes: list[int], seed: int, quarter: int, step: int
) -> None:
    global_batch = 4 * quarter
    by_world = {
        world: [
            row
            for rank in range(world)
            for row in rank_rows(Order(starts(sizes), seed), step, global_batch, rank, world)
        ]
        for world in (1, 2, 4)
    }
    assert by_world[1] == by_world[2] == by_world[4]


@given(SHARD_SIZES, SEEDS, st.integers(0, 300), st.integers(1, 60))
@settings(deadline=None, max_examples=50)
def test_resuming_needs_only_the_samples_seen(sizes: list[int], seed: int, seen: int, more: int) -> None:
    whole = Order(starts(sizes), seed).rows(0, seen + more)
    np.testing.assert_array_equal(Order(starts(sizes), seed).rows(seen, more), whole[seen:])


@given(st.lists(st.integers(1, 5), min_size=WINDOW_SHARDS + 1, max_size=40), SEEDS)
@settings(max_examples=30, deadline=None)
def test_reads_stay_within_a_window_of_shards(sizes: list[int], seed: int) -> None:
    edges = starts(sizes)
    shard_of = np.searchsorted(edges, epoch_order(edges, seed, 0), side="right") - 1
    finished: set[int] = set()
    place = 0
    while place < len(shard_of):
        window: set[int] = set()
        rows_in_window = 0
        while place + rows_in_window < len(shard_of):
            shard = int(shard_of[place + rows_in_window])
            if len(window | {shard}) > WINDOW_SHARDS:
                break
            window.add(shard)
            rows_in_window += 1
        assert window.isdisjoint(finished)
        finished |= window
        place += rows_in_window


@given(SHARD_SIZES, SEEDS, st.sampled_from([2, 3, 4, 8]), st.integers(1, 4), st.integers(0, 200))
@settings(deadline=None, max_examples=50)
def test_with_streams_an_epoch_still_has_every_row_once_and_needs_no_past(
    sizes: list[int], seed: int, streams: int, part: int, seen: int
) -> None:
    count, batch = sum(sizes), streams * part
    whole = Order(starts(sizes), seed, streams, batch).rows(0, 4 * count)
    for epoch in range(4):
        assert sorted(whole[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))
    seen = min(seen, 3 * count)
    fresh = Order(starts(sizes), seed, streams, batch)
    np.testing.assert_array_equal(fresh.rows(seen, count), whole[seen : seen + count])


@given(st.integers(1, 6), SEEDS, st.sampled_from([2, 4]), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_a_stream_keeps_its_shards_through_all_epochs(each: int, seed: int, streams: int, part: int) -> None:
    """Its own, and the two that the cuts go through, which move by less than a batch."""
    per_shard, batch = 16, streams * part
    edges = starts([per_shard] * (streams * each))
    order = Order(edges, seed, streams, batch)
    steps = -(-5 * order.count // batch)
    for stream in range(streams):
        rows = [row for step in range(steps) for row in order.rows(step * batch + stream * part, part)]
        shards = {int(row) // per_shard for row in rows}
        assert len(shards) <= each + 2


def test_every_epoch_shuffles_a_single_shard_anew() -> None:
    orders = [epoch_order(starts([50]), 1, epoch).tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_neighbours_of_a_shard_are_far_apart() -> None:
    """With eight shards of 100, a fair shuffle puts neighbours a third of the epoch apart on average."""
    position = np.argsort(epoch_order(starts([100] * 8), 1, 0))
    assert np.abs(np.diff(position)).mean() > 0.28 * 800
