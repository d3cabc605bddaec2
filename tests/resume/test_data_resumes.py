"""The same samples at every step, whoever was killed and however many processes go on."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import psutil
import pytest
from data_once import BATCH, read

from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset

sys.path.append(str(Path(__file__).parents[1] / "data"))
from small_dataset import CLASSES, FACTORS, SIZE, sample

DRIVER = Path(__file__).with_name("data_once.py")
OWN, OTHER = 45, 23  # neither a multiple of the batch or of the shards


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven shards, here and there a modality missing."""
    home = tmp_path_factory.mktemp("datasets")
    write(home / "own", [sample(n, rgb=n % 7 != 1, depth=n % 5 != 2, seg=n % 9 != 5) for n in range(OWN)], 4)
    write(home / "other", [sample(1000 + n, depth=n % 2 == 0) for n in range(OTHER)], 10)
    return home


def write(directory: Path, samples: list[Sample], shard_samples: int) -> None:
    write_dataset(
        directory,
        [("train", one) for one in samples],
        class_names=CLASSES,
        image_size=SIZE,
        shard_samples=shard_samples,
        factors=FACTORS,
    )


@pytest.fixture(scope="module")
def uninterrupted(datasets: Path) -> list[list[str]]:
    return read(datasets, steps=40)


@pytest.fixture(scope="module")
def uninterrupted_mixed(datasets: Path) -> list[list[str]]:
    return read(datasets, steps=40, mixed=True)


def together(datasets: Path, ranks: int, first: int, steps: int, **options: object) -> list[list[str]]:
    """What all ranks read, put side by side."""
    parts = [
        read(datasets, rank=rank, size=ranks, seen=first * BATCH, steps=steps, **options)  # type: ignore[arg-type]
        for rank in range(ranks)
    ]
    return [list(chain(*step)) for step in zip(*parts, strict=True)]


def killed(datasets: Path, out: Path, ranks: int, workers: int, steps: int, *more: str) -> list[list[str]]:
    """What all ranks had read when they were killed with SIGKILL; nothing of theirs is left."""
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, str(DRIVER), str(datasets), str(out / f"{rank}"), *more),
                *(f"--rank={rank}", f"--size={ranks}", f"--workers={workers}", "--seen=0"),
                f"--steps={steps}",
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "STARTED_BY": str(out)},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, said.decode()
    until = time.monotonic() + 20
    while left_alive(out) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left_alive(out)
    parts = [
        [line.split("\t") for line in (out / f"{rank}").read_text().splitlines()] for rank in range(ranks)
    ]
    return [list(chain(*step)) for step in zip(*parts, strict=True)]


def left_alive(out: Path) -> list[psutil.Process]:
    """Processes that a run began and that did not end with it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STARTED_BY") == str(out):
                found.append(process)
        except psutil.Error:
            continue
    return found


def keys(steps: list[list[str]]) -> list[str]:
    return [one.partition(" ")[0] for step in steps for one in step]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (2, 3)])
def test_forty_steps_are_twenty_and_a_kill_and_twenty(
    datasets: Path, uninterrupted: list[list[str]], tmp_path: Path, ranks: int, workers: int
) -> None:
    before = killed(datasets, tmp_path, ranks, workers, 20)
    after = together(datasets, ranks, 20, 20, workers=workers)
    assert before + after == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 3)])
def test_the_same_with_datasets_mixed(
    datasets: Path, uninterrupted_mixed: list[list[str]], tmp_path: Path, ranks: int, workers: int
) -> None:
    before = killed(datasets, tmp_path, ranks, workers, 20, "--mixed")
    after = together(datasets, ranks, 20, 20, workers=workers, mixed=True)
    assert before + after == uninterrupted_mixed


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2), (8, 2, 8), (4, 1, 2)])
@pytest.mark.parametrize("mixed", [False, True])
def test_any_number_of_processes_goes_on_with_the_same_samples(
    datasets: Path,
    uninterrupted: list[list[str]],
    uninterrupted_mixed: list[list[str]],
    ranks: tuple[int, ...],
    mixed: bool,
) -> None:
    """Checkpoints after every stretch: the second one is taken by a run that was itself resumed."""
    steps, first = [], 0
    for number, count in enumerate(ranks):
        stretch = 40 - first if number == len(ranks) - 1 else 13
        steps += together(datasets, count, first, stretch, mixed=mixed)
        first += stretch
    assert steps == (uninterrupted_mixed if mixed else uninterrupted)


@pytest.mark.parametrize(("workers", "cache_gib"), [(1, 0.0), (3, 0.0), (0, 1.0), (2, 1.0)])
def test_neither_workers_nor_kept_samples_change_a_pixel(
    datasets: Path, uninterrupted: list[list[str]], workers: int, cache_gib: float
) -> None:
    assert read(datasets, steps=40, workers=workers, cache_gib=cache_gib) == uninterrupted


def test_every_sample_comes_once_per_epoch_and_in_another_order(uninterrupted: list[list[str]]) -> None:
    seen = keys(uninterrupted)
    epochs = [seen[start : start + OWN] for start in range(0, len(seen) - OWN + 1, OWN)]
    assert len(epochs) == 7
    assert all(sorted(epoch) == sorted(epochs[0]) == sorted(set(epoch)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 7


def test_augmentation_is_another_one_in_every_epoch(uninterrupted: list[list[str]]) -> None:
    versions: dict[str, set[str]] = {}
    for step in uninterrupted:
        for one in step:
            key, _, pixels = one.split(" ")
            versions.setdefault(key, set()).add(pixels)
    assert sum(len(different) for different in versions.values()) > 0.95 * 40 * BATCH


def test_with_four_streams_every_sample_still_comes_once_per_epoch_for_any_number_of_ranks(
    datasets: Path,
) -> None:
    alone = read(datasets, steps=40, streams=4)
    for ranks in (2, 4, 8):
        assert together(datasets, ranks, 0, 40, streams=4) == alone
    assert together(datasets, 2, 0, 11, streams=4) + together(datasets, 4, 11, 29, streams=4) == alone
    seen = keys(alone)
    for start in range(0, len(seen) - OWN + 1, OWN):
        assert len(set(seen[start : start + OWN])) == OWN


def test_a_rank_that_owns_whole_streams_reads_its_own_shards(datasets: Path) -> None:
    """Of 12 shards, each of 4 ranks needs its three and at most the two that cuts go through."""
    for rank in range(4):
        steps = read(datasets, rank=rank, size=4, steps=60, streams=4)
        shards = {int(one.split(" ")[1]) // 4 for step in steps for one in step}
        assert len(shards) <= 3 + 2 + 2
