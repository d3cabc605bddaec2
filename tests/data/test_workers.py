"""Worker processes: one clear error when one dies, and nothing left when they are no longer wanted."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from small_dataset import write

from pipeline.config.training import Loading
from pipeline.data.batch import PackedBatch
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.errors import STOP_SIGNALS, InputError


def stream(directory: Path, workers: int, batch: int = 8, cache_gib: float = 0.0, say=print):  # type: ignore[no-untyped-def]
    return training_batches(
        ShardedDataset(directory),
        "train",
        seed=3,
        global_batch=batch,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        loading=Loading(workers=workers, cache_gib=cache_gib),
        say=say,
    )


def my_workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any("loader.workers" in word for word in process.cmdline())
    ]


def test_workers_make_the_batches_that_a_thread_makes(tmp_path: Path) -> None:
    write(tmp_path, train=30)
    thread = [batch for batch in islice(stream(tmp_path, 0), 12)]
    workers = [batch for batch in islice(stream(tmp_path, 3), 12)]
    for one, other in zip(thread, workers, strict=True):
        assert one.key == other.key
        assert one.index.tolist() == other.index.tolist()
        assert one.factors is not None
        assert other.factors is not None
        assert one.factors.tolist() == other.factors.tolist()
        for name, value in one.value.items():
            torch.testing.assert_close(value, other.value[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_do_not_change(tmp_path: Path, workers: int) -> None:
    """Memory is used again only when nobody looks at it."""
    write(tmp_path, train=30)
    batches = stream(tmp_path, workers)
    kept: list[PackedBatch] = []
    sums: list[int] = []
    for batch in islice(batches, 25):
        kept.append(batch)
        sums.append(int(batch.value["rgb"].sum()))
    assert [int(batch.value["rgb"].sum()) for batch in kept] == sums
    assert len(set(sums)) > 20
    batches.close()
    assert [int(batch.value["rgb"].sum()) for batch in kept] == sums


def test_closing_midway_leaves_no_process_and_no_open_file(tmp_path: Path) -> None:
    write(tmp_path, train=30)
    open_before = len(psutil.Process().open_files()) + psutil.Process().num_fds()
    batches = stream(tmp_path, 2)
    for _ in range(3):
        next(batches)
    assert len(my_workers()) == 2
    batches.close()
    assert my_workers() == []
    assert len(psutil.Process().open_files()) + psutil.Process().num_fds() <= open_before + 1


def test_a_worker_that_is_killed_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path, train=30)
    batches = stream(tmp_path, 2)
    next(batches)
    my_workers()[0].send_signal(signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"data worker \d+ was ended by SIGKILL; out of memory\?"):
        list(islice(batches, 20))
    assert my_workers() == []


def test_a_request_to_stop_that_reaches_workers_too_is_left_to_who_started_them(tmp_path: Path) -> None:
    """`scancel --full` signals every process; training wants its next batch before it saves."""
    write(tmp_path, train=30)
    batches = stream(tmp_path, 2)
    next(batches)
    for worker in my_workers():
        for number in STOP_SIGNALS:
            worker.send_signal(number)
    assert len(list(islice(batches, 20))) == 20
    batches.close()
    assert my_workers() == []


def test_what_a_worker_cannot_read_is_said_as_without_workers(tmp_path: Path) -> None:
    write(tmp_path, train=30)
    batches = stream(tmp_path, 1)
    next(batches)
    for tar in tmp_path.glob("train-*.tar"):
        with tar.open("r+b") as file:
            file.truncate(600)
    with pytest.raises(InputError, match=r"train-\d+\.tar: ends before byte"):
        list(islice(batches, 20))
    assert my_workers() == []


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from test_workers import stream
batches = stream(Path(sys.argv[1]), 2)
next(batches)
print("reading", flush=True)
while True:
    next(batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_program(tmp_path: Path, how: signal.Signals) -> None:
    write(tmp_path, train=30)
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(here), str(here.parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert said.count("Traceback") == (1 if how == signal.SIGINT else 0), said
    until = time.monotonic() + 10
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < until, "a worker is still there"
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_samples_are_read_once(tmp_path: Path, workers: int) -> None:
    """With the tars gone after the first epoch, the others come from memory."""
    write(tmp_path, train=32)
    batches = stream(tmp_path, workers, cache_gib=0.1)
    first = [next(batches) for _ in range(12)]
    for tar in tmp_path.glob("*.tar"):
        with tar.open("r+b") as file:
            file.truncate(600)
    later = [next(batches) for _ in range(20)]
    batches.close()
    by_key = {key: batch.value["rgb"][row] for batch in first for row, key in enumerate(batch.key)}
    for batch in later:
        for row, key in enumerate(batch.key):
            assert torch.equal(batch.value["rgb"][row], by_key[key])


def test_samples_that_do_not_fit_are_not_kept_and_it_is_said(tmp_path: Path) -> None:
    write(tmp_path, train=32)
    said: list[str] = []
    batches = stream(tmp_path, 0, cache_gib=1e-6, say=said.append)
    assert len(next(batches)) == 8
    batches.close()
    assert len(said) == 1
    assert "the decoded train samples need 0.00 GiB, more than train.loading.cache_gib: 1e-06" in said[0]


def test_a_packed_batch_is_small_and_unpacks_to_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = ShardedDataset(tmp_path)
    packed = dataset.packed("train", [3, 1, 4])
    assert {name: value.dtype for name, value in packed.value.items()} == {
        "rgb": torch.uint8,
        "depth": torch.float32,
        "seg": torch.uint8,
    }
    unpacked, read = packed.to("cpu"), dataset.read("train", [3, 1, 4])
    for name, modality in unpacked.modalities.items():
        assert torch.equal(modality.value, read.modalities[name].value)
        assert torch.equal(modality.valid, read.modalities[name].valid)
        assert torch.equal(packed.present(), read.present())
    stored = sum(value.nbytes for value in packed.value.values())
    assert stored * 3.3 < sum(m.value.nbytes + m.valid.nbytes for m in unpacked.modalities.values())
