"""A factor changes what it names and nothing else; a scene depends on its number and seed alone."""

import numpy as np
import pytest

from pipeline.data.hashing import key_of, permutation, uniform
from pipeline.data.modality import Sample
from pipeline.data.scenes.rooms import GRID, SCALES, draw_rooms, factor_values, room_number
from pipeline.data.scenes.samples import RoomSamples, TabletopSamples
from pipeline.errors import InputError

PLAIN = RoomSamples(seed=0, nuisance=0.0, image_size=64, antialias=False)
START = (0, 3, 6, 3, 0, 7)
FLOOR_HUE, WALL_HUE, OBJECT_HUE, SCALE, SHAPE, ORIENTATION = range(6)


def with_factor(place: int, value: int) -> Sample:
    values = list(START)
    values[place] = value
    return PLAIN(room_number(tuple(values)))


@pytest.fixture
def start() -> Sample:
    return PLAIN(room_number(START))


@pytest.mark.parametrize(("place", "labels"), [(FLOOR_HUE, {0}), (WALL_HUE, {1}), (OBJECT_HUE, {2, 3, 4, 5})])
def test_a_hue_changes_the_colour_of_its_surface_only(start: Sample, place: int, labels: set[int]) -> None:
    for value in range(1, 10):
        if value == START[place]:
            continue
        other = with_factor(place, value)
        np.testing.assert_array_equal(other.depth, start.depth)
        np.testing.assert_array_equal(other.seg, start.seg)
        changed = (other.rgb != start.rgb).any(-1)
        named = np.isin(start.seg, sorted(labels))
        assert not changed[~named].any()
        # A hue that differs in one channel only may leave pixels in deep shadow as they were.
        assert changed[named].mean() > 0.9


def test_scale_changes_the_size_of_the_object_only(start: Sample) -> None:
    larger = with_factor(SCALE, 7)
    is_object, is_larger = start.seg >= 2, larger.seg >= 2
    assert is_larger[is_object].all()
    assert set(np.unique(larger.seg)) == set(np.unique(start.seg))
    ratio = SCALES[7] / SCALES[3]
    assert is_larger.sum() / is_object.sum() == pytest.approx(ratio**2, rel=0.15)
    room_in_both = ~is_object & ~is_larger
    np.testing.assert_array_equal(larger.depth[room_in_both], start.depth[room_in_both])


def test_shape_changes_the_class_of_the_object_only(start: Sample) -> None:
    for shape in range(4):
        other = with_factor(SHAPE, shape)
        assert set(np.unique(other.seg)) == {0, 1, 2 + shape}
        room_in_both = (start.seg < 2) & (other.seg < 2)
        np.testing.assert_array_equal(other.depth[room_in_both], start.depth[room_in_both])


def test_orientation_moves_the_camera_and_keeps_the_colours(start: Sample) -> None:
    turned = with_factor(ORIENTATION, 0)
    assert (turned.depth != start.depth).mean() > 0.5
    for label in np.unique(start.seg):
        hue = [
            np.median(s.rgb[s.seg == label] / s.rgb[s.seg == label].max(-1, keepdims=True), 0)
            for s in (start, turned)
        ]
        np.testing.assert_allclose(hue[0], hue[1], atol=0.1)


def test_without_nuisances_the_seed_changes_nothing(start: Sample) -> None:
    other = RoomSamples(seed=99, nuisance=0.0, image_size=64, antialias=False)(room_number(START))
    np.testing.assert_array_equal(other.rgb, start.rgb)
    np.testing.assert_array_equal(other.depth, start.depth)


def test_with_nuisances_the_seed_changes_the_picture_and_not_the_factors() -> None:
    first, second = (RoomSamples(seed, 1.0, 64)(room_number(START)) for seed in (0, 1))
    assert (first.depth != second.depth).mean() > 0.5
    assert (
        first.factors
        == second.factors
        == dict(
            zip(("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"), START, strict=True)
        )
    )


@pytest.mark.parametrize(
    "load", [RoomSamples(5, 1.0, 64), TabletopSamples(5, 6, 64)], ids=["rooms", "tabletop"]
)
def test_a_picture_does_not_depend_on_what_is_rendered_before_it(load: RoomSamples | TabletopSamples) -> None:
    numbers = [7, 70_000, 123, 5]
    forward = {n: load(n) for n in numbers}
    backward = {n: load(n) for n in reversed(numbers)}
    for n in numbers:
        np.testing.assert_array_equal(forward[n].rgb, backward[n].rgb)
        np.testing.assert_array_equal(forward[n].depth, backward[n].depth)
        np.testing.assert_array_equal(forward[n].seg, backward[n].seg)


def test_pictures_stay_what_they_are() -> None:
    """A change of any pixel of any scene is a change of every dataset: say so in the changelog."""
    rooms, tables = RoomSamples(0, 1.0, 32), TabletopSamples(0, 6, 32)
    sums = [
        [int(s.rgb.astype(int).sum()), int(s.seg.astype(int).sum())]
        for s in (rooms(0), rooms(479_999), tables(0))
    ]
    assert sums == [[251038, 458], [266746, 1069], [314522, 1566]]


def test_sensor_noise_leaves_labels_and_loses_depth_only_beside_jumps() -> None:
    clean = TabletopSamples(0, 6, 64, sensor_noise=False)(3)
    noisy = TabletopSamples(0, 6, 64, sensor_noise=True)(3)
    np.testing.assert_array_equal(clean.seg, noisy.seg)
    lost = np.isnan(noisy.depth)
    step = np.zeros(lost.shape, bool)
    step[:, 1:] |= np.abs(np.diff(clean.depth, axis=1)) > 0.15
    step[1:] |= np.abs(np.diff(clean.depth, axis=0)) > 0.15
    assert 0 < lost.sum() < step.sum()
    assert not (lost & ~step).any()
    error = (noisy.depth - clean.depth)[~lost]
    expected = 0.0012 + 0.0019 * (clean.depth[~lost] - 0.4) ** 2
    assert np.std(error / expected) == pytest.approx(1.0, abs=0.05)
    assert abs(np.mean(error / expected)) < 0.05


def test_rooms_are_drawn_without_repetition_and_more_of_them_begin_the_same() -> None:
    few, many = draw_rooms(1_000, seed=4), draw_rooms(50_000, seed=4)
    np.testing.assert_array_equal(few, many[:1_000])
    assert len(np.unique(many)) == 50_000
    assert (draw_rooms(1_000, seed=5) != few).mean() > 0.9


def test_drawn_rooms_cover_every_factor_evenly() -> None:
    values = np.array([factor_values(n) for n in draw_rooms(12_000, seed=0).tolist()])
    for column, size in enumerate((10, 10, 10, 8, 4, 15)):
        counts = np.bincount(values[:, column], minlength=size)
        # Draws without repetition vary less than a binomial; five deviations of one.
        assert np.abs(counts - 12_000 / size).max() < 5 * np.sqrt(12_000 / size)


def test_more_rooms_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="480,000"):
        draw_rooms(GRID + 1, seed=0)


def test_splitmix64_gives_its_published_outputs() -> None:
    """Seed 1234567 of the reference implementation (Vigna, prng.di.unimi.it/splitmix64.c)."""
    from pipeline.data.hashing import bits

    assert bits(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_uniform_numbers_are_uniform_and_keys_independent() -> None:
    first, second = uniform(key_of(1, 2), 20_000), uniform(key_of(2, 1), 20_000)
    assert first.min() >= 0
    assert first.max() < 1
    assert first.mean() == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=0.03)
    assert sorted(permutation(1_000, key_of(3)).tolist()) == list(range(1_000))
