"""What is refused when all samples are known, when that is too much, and what a person is told."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_source import catalogue, config, noise, run_noise
from picture_folder import Spoken
from PIL import Image
from small_dataset import sample

from pipeline.data.modality import SPLITS, Sample
from pipeline.data.shards.alike import alike_elsewhere, beyond_a_gap, equal_elsewhere, rank_of
from pipeline.data.shards.dataset import INFO, read_info
from pipeline.data.shards.fingerprint import content_of, look_of
from pipeline.errors import InputError

COUNT = 40
SPLIT = ["test" if number % 5 == 2 else "train" for number in range(COUNT)]


def quarantine(directory: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = pq.read_table(directory / "quarantine.parquet").to_pylist()
    return rows


def grey(values: np.ndarray) -> np.ndarray:
    """A picture of 9 x 9 fields of 4 x 4 pixels."""
    return np.repeat(np.kron(values, np.ones((4, 4)))[..., None], 3, axis=2).astype(np.uint8)


def test_the_look_of_known_pictures_is_known() -> None:
    right = grey(np.tile(np.arange(9) * 20, (9, 1)))
    assert look_of(right).hex() == "ff" * 8 + "00" * 8
    assert look_of(right.transpose(1, 0, 2)).hex() == "00" * 8 + "ff" * 8
    assert look_of(255 - right).hex() == "00" * 16
    # One bright field at row 2, column 3: its left neighbour and the one above are darker than it.
    one = np.zeros((9, 9))
    one[2, 3] = 200
    assert look_of(grey(one)).hex() == "00" * 2 + "20" + "00" * 5 + "00" + "10" + "00" * 6


def test_a_look_survives_compression_and_scaling_but_not_another_view() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((64, 64), Image.BICUBIC)
    smaller = smooth.resize((48, 48), Image.BICUBIC).resize((64, 64), Image.BICUBIC)
    looks = [np.frombuffer(look_of(np.asarray(image)), np.uint8) for image in (smooth, smaller)]
    assert np.bitwise_count(looks[0] ^ looks[1]).sum() <= 3
    mirrored = np.frombuffer(look_of(np.asarray(smooth)[:, ::-1].copy()), np.uint8)
    assert np.bitwise_count(looks[0] ^ mirrored).sum() > 20


def test_content_tells_every_pixel_and_every_missing_modality_apart() -> None:
    first = sample(1)
    changed = sample(1)
    assert changed.seg is not None
    changed.seg[3, 3] = (changed.seg[3, 3] + 1) % 3
    samples = [first, changed, sample(1, rgb=False), sample(1, depth=False), sample(2)]
    assert len({content_of(one) for one in samples}) == len(samples)
    assert content_of(first) == content_of(sample(1))
    # The number is the start of a SHA-256: here of "rgb(1, 1, 3)" and three bytes.
    assert content_of(Sample("a", rgb=np.array([[[1, 2, 3]]], np.uint8))) == int.from_bytes(
        bytes.fromhex("4aefa397e022ed78"), "little"
    )


def brute_alike(look: np.ndarray, rank: np.ndarray, distance: int) -> np.ndarray:
    """The smallest rank among all that are alike each one, itself included."""
    apart = np.bitwise_count(look[:, None] ^ look[None]).sum(axis=-1)
    near = (apart <= distance) & look.any(axis=1)[:, None] & look.any(axis=1)[None]
    return np.where(near, rank[None], rank[:, None]).min(axis=1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 120), width=st.sampled_from([2, 6, 20, 128]))
def test_alike_looks_are_found_as_by_comparing_all(seed: int, count: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, (max(1, count // 6), 2)).astype(np.uint64)
    look = centres[rng.integers(0, len(centres), count)]
    for _ in range(3):
        bit = rng.integers(0, width, count)
        flip = np.zeros((count, 2), np.uint64)
        flip[np.arange(count), bit // 64] = np.uint64(1) << (bit % 64).astype(np.uint64)
        look = np.where(rng.random((count, 1)) < 0.7, look ^ flip, look)
    look[rng.random(count) < 0.05] = 0
    rank = rng.integers(0, 4, count)
    found = alike_elsewhere(look, rank)
    best = np.where(found >= 0, rank[found], rank)
    np.testing.assert_array_equal(best, brute_alike(look, rank, 3))
    np.testing.assert_array_equal(found >= 0, best < rank)


def test_crowds_that_share_most_of_their_bits_are_found_too() -> None:
    """More than are compared one by one, and all in the same bands."""
    rng = np.random.default_rng(1)
    look = np.full((1500, 2), 0x0123456789ABCDEF, np.uint64)
    look[:, 1] ^= rng.integers(0, 2**20, 1500).astype(np.uint64)
    rank = (rng.random(1500) < 0.9).astype(np.int64) * 3
    found = alike_elsewhere(look, rank)
    np.testing.assert_array_equal(np.where(found >= 0, rank[found], rank), brute_alike(look, rank, 3))


def test_many_looks_do_not_take_long() -> None:
    import time

    rng = np.random.default_rng(2)
    look = rng.integers(0, 2**63, (300_000, 2)).astype(np.uint64)
    look[:100_000, 0] &= np.uint64(0xFFFF)  # a crowd that agrees in 48 bits
    rank = (rng.random(len(look)) < 0.9).astype(np.int64) * 3
    started_s = time.process_time()
    alike_elsewhere(look, rank)
    assert time.process_time() - started_s < 30


def test_equal_content_points_at_the_copy_that_stays() -> None:
    content = np.array([7, 7, 7, 8, 9, 9], np.uint64)
    split = np.array([SPLITS.index(name) for name in ("train", "test", "heldout", "test", "train", "train")])
    found = equal_elsewhere(content, rank_of(split.astype(np.uint8)))
    assert found.tolist() == [1, -1, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("typical_m", "beyond"),
    [
        ([1.0, 2.0, 4.0, 7.9], [False] * 4),
        ([1.0, 1.2, 1.1, 1200.0], [False, False, False, True]),
        ([1000.0, 1.2, 1100.0, 1200.0], [False, True, False, False]),
        ([1.0, 1.1, 9.0], [False, False, True]),
        ([1.0, 1.1, 100.0, 10000.0, 1.2, float("nan")], [False, False, True, True, False, False]),
        ([1.0, 100.0], [False, True]),
        ([], []),
        ([float("nan")], [False]),
    ],
)
def test_a_gap_in_typical_depth_is_another_unit(typical_m: list[float], beyond: list[bool]) -> None:
    assert beyond_a_gap(np.array(typical_m, np.float32), 8.0).tolist() == beyond


def test_a_copy_in_training_of_a_test_sample_is_refused_with_the_name_of_its_twin(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT, copies={11: 2, 13: 1}), SPLIT)
    run_noise(tmp_path, source, config())
    assert quarantine(tmp_path) == [
        {
            "origin": "source/11",
            "reason": "duplicate_across_splits",
            "detail": "the same pictures as n00002 in test",
            "remedy": "keep one of them, or put both into the same split",
            "split": "train",
        }
    ]
    kept = pq.read_table(tmp_path / "index.parquet")["key"].to_pylist()
    assert set(kept) == {f"n{number:05d}" for number in range(COUNT)} - {"n00011"}


def test_unit_change_is_refused_and_does_not_spoil_the_statistics(tmp_path: Path) -> None:
    run_noise(tmp_path / "some", catalogue(noise(COUNT, far={11: 1000.0, 12: 1000.0}), SPLIT), config())
    refused = quarantine(tmp_path / "some")
    assert [(row["origin"], row["reason"], row["split"]) for row in refused] == [
        ("source/11", "unit_change", "train"),
        ("source/12", "unit_change", "test"),
    ]
    assert "that of most samples 3." in refused[0]["detail"]
    assert "same unit" in refused[0]["remedy"]
    depth = read_info(tmp_path / "some").depth
    assert depth is not None
    assert depth.max_m < 6.0


def test_copies_may_be_left_alone_and_rendered_scenes_always_are(tmp_path: Path) -> None:
    entries = noise(COUNT, copies={11: 2}, far={13: 1000.0})
    run_noise(tmp_path / "off", catalogue(entries, SPLIT), config(duplicates="off"))
    assert [row["reason"] for row in quarantine(tmp_path / "off")] == ["unit_change"]
    run_noise(tmp_path / "rendered", catalogue(entries, SPLIT, rendered=True), config())
    assert quarantine(tmp_path / "rendered") == []


class Brighter:
    """Of two neighbours the second is the first, a little brighter."""

    def __call__(self, entries):  # type: ignore[no-untyped-def]
        for entry in entries:
            rng = np.random.default_rng(entry.number // 2)
            seen = Image.fromarray(rng.integers(0, 200, (8, 8, 3)).astype(np.uint8)).resize((32, 32))
            rgb = np.asarray(seen) + np.uint8(3 * (entry.number % 2))
            factors = {"hue": 0, "size": 0}
            yield Sample(f"n{entry.number:05d}", rgb=rgb, factors=factors, origin=str(entry))


def test_pictures_that_only_look_alike_are_counted_in_one_line(tmp_path: Path) -> None:
    spoken = Spoken()
    source = catalogue(noise(COUNT), ["train", "test"] * (COUNT // 2), load=Brighter())
    run_noise(tmp_path, source, config(), spoken=spoken)
    assert quarantine(tmp_path) == []
    (line,) = spoken.lines
    assert line.startswith("warning: 20 samples look almost like one of another split, such as n00000 (tr")
    assert "data.block" in line


def test_pictures_that_look_alike_are_refused_if_asked_for(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT), ["train", "test", "train", "train"] * (COUNT // 4), load=Brighter())
    run_noise(tmp_path, source, config(duplicates="perceptual"))
    refused = quarantine(tmp_path)
    assert [row["origin"] for row in refused] == [f"source/{number}" for number in range(0, COUNT, 4)]
    assert refused[0]["detail"] == "looks like n00001 in test"


def test_strict_stops_at_the_first_refusal(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT, bad={3, 9}), SPLIT)
    with pytest.raises(InputError) as error:
        run_noise(tmp_path, source, config(strict=True))
    assert str(error.value) == (
        "source/3 is refused, spoiled: source/3 is spoiled; throw it away "
        "(--strict stops at the first; without it such samples are left out and listed)"
    )
    assert not (tmp_path / INFO).exists()


def test_strict_heeds_what_an_earlier_attempt_refused_and_what_is_refused_late(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT, bad={3}), SPLIT)
    with pytest.raises(InputError, match="another process"):
        run_noise(tmp_path / "a", source, config(), size=2, peer_failure=lambda: "stopped")
    with pytest.raises(InputError, match="source/3 is refused"):
        run_noise(tmp_path / "a", source, config(strict=True))
    copied = catalogue(noise(COUNT, copies={11: 2}), SPLIT)
    with pytest.raises(InputError, match="source/11 is refused, duplicate_across_splits"):
        run_noise(tmp_path / "b", copied, config(strict=True))
    assert not (tmp_path / "b" / INFO).exists()


def test_too_much_rubbish_stops_the_run_with_reason_example_and_remedy(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT, bad={3, 8, 9, 14, 20}), SPLIT)
    with pytest.raises(InputError) as error:
        run_noise(tmp_path, source, config(max_bad_fraction=0.1))
    assert str(error.value) == (
        "5 of 40 samples are refused already, more than data.max_bad_fraction (0.1) allows; mostly spoiled "
        "(5), such as source/3: source/3 is spoiled; throw it away. Put that right, or raise "
        "data.max_bad_fraction"
    )
    assert not (tmp_path / INFO).exists()
    run_noise(tmp_path, source, config(max_bad_fraction=0.125))
    assert read_info(tmp_path).quarantine == {"spoiled": 5}


def test_late_refusals_count_towards_the_limit(tmp_path: Path) -> None:
    source = catalogue(noise(COUNT, copies={n: 2 for n in (5, 6, 8, 9, 10)}), SPLIT)
    with pytest.raises(InputError, match=r"5 of 40 samples.*mostly duplicate_across_splits \(5\), such as"):
        run_noise(tmp_path, source, config(max_bad_fraction=0.1))
    assert not (tmp_path / INFO).exists()


def test_depth_that_is_nowhere_plausible_is_asked_about(tmp_path: Path) -> None:
    spoken = Spoken()
    source = catalogue(noise(COUNT, far=dict.fromkeys(range(COUNT), 1000.0)), SPLIT)
    run_noise(tmp_path, source, config(), spoken=spoken)
    assert any(line.startswith("warning: depth is typically 3.") for line in spoken.lines), spoken.lines


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sample is left for split test .*; hold out less"):
        run_noise(tmp_path, catalogue(noise(6), ["train"] * 6), config())


def test_a_key_that_two_parts_have_is_refused(tmp_path: Path) -> None:
    entries = noise(COUNT)
    entries[30] = entries[3]
    with pytest.raises(ValueError, match="two samples have the key 'n00003'"):
        run_noise(tmp_path, catalogue(entries, SPLIT), config())
