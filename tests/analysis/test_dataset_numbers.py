"""A survey counts what is there, and says how much of it was looked at."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.dataset import Survey, survey, survey_json, survey_metrics
from pipeline.analysis.dataset_pictures import leave_pictures
from pipeline.analysis.dataset_pixels import display_edges_m, fine_edges_m
from pipeline.analysis.dataset_samples import evenly_spread, shares
from pipeline.config.existing import DatasetSource
from pipeline.data.loader.location import adopt_dataset
from pipeline.data.modality import Sample
from pipeline.errors import InputError
from tests.analysis.planted_dataset import REFUSED, SIZE, Silent, scene, write, write_samples


def found(directory: Path, limit: int = 100) -> Survey:
    return survey(directory, limit, Silent())


def told(directory: Path, limit: int = 100) -> dict:
    return json.loads(json.dumps(survey_json(found(directory, limit))))


def test_samples_and_missing_modalities_are_counted_per_split(tmp_path: Path) -> None:
    assert told(write(tmp_path / "d"))["splits"] == {
        "train": {"samples": 8, "missing": {"rgb": 0, "depth": 2, "seg": 0}},
        "test": {"samples": 3, "missing": {"rgb": 0, "depth": 0, "seg": 1}},
    }


def test_classes_are_counted_in_pixels_and_in_samples(tmp_path: Path) -> None:
    said = told(write(tmp_path / "d"))
    floor, cup, unicorn = said["classes"]
    labelled = SIZE * (SIZE - 1)
    assert (floor["name"], floor["train"]) == ("floor", {"pixels": 8 * (labelled - 16), "samples": 8})
    assert (cup["train"], cup["test"]) == ({"pixels": 8 * 16, "samples": 8}, {"pixels": 2 * 16, "samples": 2})
    assert unicorn["train"] == {"pixels": 0, "samples": 0}
    assert said["unlabelled_pixels"] == 10 * SIZE


def test_depth_is_counted_in_bins_with_its_valid_share(tmp_path: Path) -> None:
    depth = told(write(tmp_path / "d"))["depth"]
    scenes, valid = 9, SIZE * (SIZE - 1)
    assert (depth["pixels"], depth["valid"]) == (scenes * SIZE * SIZE, scenes * valid)
    assert (depth["nearest_m"], depth["farthest_m"]) == (1.0, 2.0)
    bins = dict(zip(depth["edges_m"], depth["counts"], strict=False))
    assert bins[1.0] == scenes * 16
    assert sum(depth["counts"]) == scenes * valid
    assert depth["quantiles_m"]["p01"] == pytest.approx(1.0, abs=0.002)
    assert depth["quantiles_m"]["p50"] == pytest.approx(2.0, abs=0.002)
    assert depth["holes"] == [0, 0, 0, scenes, 0]


def test_quantiles_are_those_of_all_pixels_to_a_thousandth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    metres = [np.exp(rng.normal(0.5, 0.7, (SIZE, SIZE))).astype(np.float32) for _ in range(40)]
    samples = (
        ("train" if number else "test", Sample(f"s{number}", depth=depth, factors={"hue": 0, "shape": 0}))
        for number, depth in enumerate(metres)
    )
    write_samples(tmp_path / "d", samples)
    depth = found(tmp_path / "d").pixels.depth
    assert depth is not None
    for share, value in depth.quantiles_m.items():
        assert value == pytest.approx(float(np.quantile(np.stack(metres), share)), rel=0.005)


def test_factors_say_which_values_and_combinations_occur(tmp_path: Path) -> None:
    factors = told(write(tmp_path / "d"))["factors"]
    assert factors["combinations"] == {"seen": 2, "possible": 6}
    assert factors["values"]["hue"]["blue"] == {"train": 0, "test": 0}
    assert factors["values"]["hue"]["red"] == {"train": 4, "test": 2}


def test_each_reason_comes_with_an_example_and_its_remedy(tmp_path: Path) -> None:
    reasons = told(write(tmp_path / "d"))["quarantine"]
    assert [(reason["reason"], reason["count"], reason["origin"]) for reason in reasons] == [
        ("truncated", 2, REFUSED[0].origin),
        ("lossy_labels", 1, REFUSED[2].origin),
    ]
    assert reasons[0]["remedy"] == "copy the file again"


def test_bytes_are_those_in_the_tars(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    storage = told(directory)["storage"]
    sizes = sorted(path.stat().st_size for path in directory.glob("*.tar"))
    assert storage["shards"]["count"] == len(sizes)
    assert (storage["shards"]["smallest"], storage["shards"]["largest"]) == (sizes[0], sizes[-1])
    assert storage["shards"]["total"] == sum(sizes)
    if storage["members"]["rgb"] == "rgb.npy":
        assert storage["bytes_per_sample"]["rgb"] == 3 * SIZE * SIZE + 128


def planted_twins(directory: Path) -> Path:
    """Three pairs: the same pixels across splits and within one, and the same colours only."""
    first = scene(0)
    rgb_only = Sample("like-2", rgb=scene(2).rgb, factors={"hue": 0, "shape": 0})
    again = [Sample(key, first.rgb, first.depth, first.seg, first.factors) for key in ("again-0", "in-test")]
    samples = [
        ("train", first),
        ("train", again[0]),
        ("test", again[1]),
        ("train", scene(2)),
        ("test", rgb_only),
    ]
    write_samples(directory, iter([*samples, *(("train", scene(number)) for number in range(10, 15))]))
    return directory


def test_duplicates_are_found_within_and_across_splits(tmp_path: Path) -> None:
    twins = found(planted_twins(tmp_path / "d")).duplicates
    assert twins.equal is not None
    assert twins.same_look is not None
    assert (twins.equal.sets, twins.equal.samples, twins.equal.across) == (1, 3, {"train+test": 1})
    assert set(twins.equal.examples[0]) == {"train/scene-0000", "train/again-0", "test/in-test"}
    assert (twins.same_look.sets, twins.same_look.samples) == (2, 5)
    assert twins.same_look.across == {"train+test": 2}
    assert twins.alike_across == 3


def test_nothing_to_see_is_alike_nothing_but_a_plain_slope_is(tmp_path: Path) -> None:
    slope = np.repeat(np.arange(SIZE, dtype=np.uint8)[None, :, None] * 9, SIZE, axis=0).repeat(3, axis=2)
    pictures = [slope, slope + 5, np.zeros_like(slope), np.full_like(slope, 77)]
    samples = (
        ("train", Sample(f"s{number}", rgb=rgb, factors={"hue": 0, "shape": 0}))
        for number, rgb in enumerate(pictures)
    )
    write_samples(tmp_path / "d", samples)
    look = found(tmp_path / "d").duplicates.same_look
    assert look is not None
    assert look.examples == (("train/s0", "train/s1"),)


def test_an_older_dataset_without_hashes_is_read_all_the_same(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    table = pq.read_table(directory / "index.parquet")
    (directory / "index.parquet").unlink()
    pq.write_table(table.drop_columns(["content", "look", "depth_median_m"]), directory / "index.parquet")
    said = told(directory)
    assert said["duplicates"] == {"equal": None, "same_look": None, "alike_across": None}
    assert said["splits"]["train"]["samples"] == 8


def test_no_more_samples_are_decoded_than_asked_for(tmp_path: Path) -> None:
    directory = write(tmp_path / "d", train=200, test=40, shard_samples=50)
    few = found(directory, limit=60)
    assert few.pixels.samples == {"train": 50, "test": 16}
    assert not few.is_complete
    assert few.index.splits["train"].samples == 200
    assert found(directory, limit=240).is_complete


def test_a_damaged_tar_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    whole = (directory / "train-000000.tar").read_bytes()
    (directory / "train-000000.tar").write_bytes(whole[: len(whole) // 2])
    (directory / "test-000000.tar").unlink()
    seen = found(directory)
    said = {damage.where.partition(",")[0]: damage.what for damage in seen.damage}
    assert set(said) == {"train-000000.tar", "test-000000.tar"}
    assert said["test-000000.tar"] == "No such file or directory"
    assert 3 <= seen.pixels.samples["train"] < 8


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_dataset_whose_tars_lie_elsewhere_is_not_damaged(tmp_path: Path, prefix: str) -> None:
    there = write(tmp_path / "d")
    source = DatasetSource(kind="dataset", path=f"{prefix}{there}")
    adopt_dataset(source, SIZE, tmp_path / "stand-in")
    seen = found(tmp_path / "stand-in")
    assert seen.damage == ()
    assert sum(seen.pixels.samples.values()) == (0 if prefix else 11)  # what is behind a URL is not fetched
    drawn = leave_pictures(tmp_path / "stand-in", Silent())
    assert (tmp_path / "stand-in" / "pictures" / "contact_sheet.png").exists() == (not prefix)
    assert drawn.get("classes/cup") == (None if prefix else leave_pictures(there, Silent())["classes/cup"])


def test_a_shard_name_is_never_used_as_a_path(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    table = pq.read_table(directory / "index.parquet")
    (directory / "index.parquet").unlink()
    (tmp_path / "outside.tar").write_bytes((directory / "train-000000.tar").read_bytes())
    names = ["../outside.tar"] * table.num_rows
    place = table.schema.get_field_index("shard")
    pq.write_table(table.set_column(place, "shard", [names]), directory / "index.parquet")
    seen = found(directory)
    assert seen.pixels.samples == {"train": 0, "test": 0}
    assert {damage.where for damage in seen.damage} == {"../outside.tar"}


def test_an_index_that_disagrees_with_the_description_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    table = pq.read_table(directory / "index.parquet").slice(1)
    (directory / "index.parquet").unlink()
    pq.write_table(table, directory / "index.parquet")
    with pytest.raises(InputError, match=r"7 train samples, but dataset\.json says 8"):
        found(directory)


def test_metrics_are_shares_and_metres(tmp_path: Path) -> None:
    metrics = survey_metrics(found(write(tmp_path / "d")))
    assert metrics["missing/depth"] == pytest.approx(2 / 11)
    assert metrics["classes/cup"] == pytest.approx(16 / (SIZE * (SIZE - 1)))
    assert metrics["classes/unicorn"] == 0.0
    assert metrics["depth/valid_share"] == pytest.approx((SIZE - 1) / SIZE)
    assert metrics["duplicates"] == 0.0


@given(count=st.integers(0, 5000), wanted=st.integers(0, 300))
def test_chosen_samples_are_spread_evenly(count: int, wanted: int) -> None:
    places = evenly_spread(count, wanted)
    assert len(places) == min(count, wanted)
    if len(places):
        gaps = np.diff(places)
        assert 0 <= places[0]
        assert places[-1] < count
        assert (gaps >= 1).all()
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
        assert abs(places[0] - (count - 1 - places[-1])) <= 1, "the ends are left alone alike"


@given(
    counts=st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(1, 10_000), min_size=1),
    limit=st.integers(1, 3000),
)
def test_every_split_is_looked_at_within_the_limit(counts: dict[str, int], limit: int) -> None:
    wanted = shares(counts, limit)
    assert all(1 <= wanted[split] <= count for split, count in counts.items())
    assert sum(wanted.values()) <= limit + 16 * len(counts)


@given(low=st.floats(0.001, 1000.0), factor=st.floats(1.001, 1000.0))
def test_bins_are_few_ascending_and_hold_the_range(low: float, factor: float) -> None:
    edges = display_edges_m(low, low * factor)
    assert 2 <= len(edges) <= 15
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= low + 1e-6
    assert edges[-1] >= min(low * factor, fine_edges_m()[-1]) - 1e-6
