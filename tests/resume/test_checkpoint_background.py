import copy
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import assert_same, make_state, train_a_little

from pipeline.errors import InputError
from pipeline.training import saving
from pipeline.training.checkpoint import TrainingState, resume, take_snapshot
from pipeline.training.checkpoint_files import Keep, Score, read_best, write_checkpoint
from pipeline.training.peers import Peers
from pipeline.training.saving import Saver, Saving


class Disk:
    """Writes checkpoints when it is let, or fails as told."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None
        self.written: list[int] = []

    def write(self, root: Path, samples_seen: int, *arguments: Any, **options: Any) -> Path:
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error
        self.written.append(samples_seen)
        return write_checkpoint(root, samples_seen, *arguments, **options)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(saving, "write_checkpoint", made.write)
    return made


def make_saver(root: Path, said: list[str], **options: Any) -> Saver:
    defaults: dict[str, Any] = {"minutes": None, "before_write": lambda: None, "say": said.append}
    return Saver(root, Keep(2), **(defaults | options))


def step(state: TrainingState, val_loss: float | None = None) -> None:
    train_a_little(state, 64)
    if val_loss is not None:
        state.best = Score(state.samples_seen, val_loss)


def test_a_snapshot_stays_what_it_was(tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    state, saver = make_state(), make_saver(tmp_path, [])
    step(state)
    before = copy.deepcopy(state)
    saver.save(take_snapshot(state))
    step(state)
    disk.open.set()
    assert not saver.wait(60.0)
    other = make_state(seed=1)
    assert resume(tmp_path, other, pytest.fail)
    assert_same(before, other)
    saver.close()


def test_a_slow_disk_makes_checkpoints_late_and_steps_wait_for_none(tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    state, saver = make_state(), make_saver(tmp_path, [])
    step(state)
    assert saver.due(True)
    saver.save(take_snapshot(state))
    for _ in range(3):
        step(state)
        assert not saver.due(True)
    disk.open.set()
    assert not saver.wait(60.0)
    step(state)
    assert saver.due(False)  # it was due before, and is taken late
    saver.save(take_snapshot(state))
    assert not saver.due(False)
    saver.close()
    assert disk.written == [64, 320]


def test_of_the_best_that_wait_the_better_one_is_written(tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    state, saver = make_state(), make_saver(tmp_path, [])
    for val_loss in (3.0, 2.0, 1.0):
        step(state, val_loss)
        saver.save(take_snapshot(state))
        while not val_loss < 3.0 and not saver._busy:
            pass  # the first is being written before the second comes
    disk.open.set()
    saver.close()
    assert disk.written == [64, 192]
    assert read_best(tmp_path) == Score(192, 1.0)


def test_the_clock_asks_for_a_checkpoint_too(tmp_path: Path, disk: Disk) -> None:
    now = [0.0]
    state, saver = make_state(), make_saver(tmp_path, [], minutes=10.0, clock=lambda: now[0])
    assert not saver.due(False)
    now[0] = 600.0
    assert saver.due(False)
    saver.save(take_snapshot(state))
    assert not saver.wait(60.0)
    now[0] = 1199.0
    assert not saver.due(False)
    assert saver.due(True)
    saver.close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "disk is full; free some space"), (errno.EROFS, "is read-only; make it")],
)
def test_a_disk_that_refuses_is_said_once_and_ends_training_only_at_the_end(
    tmp_path: Path, disk: Disk, code: int, advice: str
) -> None:
    said: list[str] = []
    state, saver = make_state(), make_saver(tmp_path, said)
    together = Saving(saver, Peers(), torch.device("cpu"))

    def save(val_loss: float | None = None) -> None:
        step(state, val_loss)
        together.save(state, last=False)
        assert not saver.wait(60.0)
        together.consult(False, stop=False)

    save()
    disk.error = OSError(code, "no", "somewhere")
    save(val_loss=1.0)
    save()
    assert len(said) == 1
    assert "training goes on" in said[0]
    assert "the last good one is 000000000064" in said[0]
    disk.error = None
    save()
    assert (tmp_path / "latest").read_text() == "000000000256\n"
    assert said[1:] == ["checkpoints can be written again; the last good one is 000000000256"]
    assert read_best(tmp_path) == Score(128, 1.0)  # kept until it could be written
    disk.error = OSError(code, "no", "somewhere")
    step(state)
    with pytest.raises(InputError, match=rf"{advice}.*the last good one is 000000000256"):
        together.save(state, last=True)
    together.close()


def test_a_mistake_in_the_thread_reaches_the_loop(tmp_path: Path, disk: Disk) -> None:
    state, saver = make_state(), make_saver(tmp_path, [])
    disk.error = TypeError("no such thing")
    saver.save(take_snapshot(state))
    assert not saver.wait(60.0)
    with pytest.raises(RuntimeError, match="thread that writes checkpoints failed") as failed:
        saver.due(False)
    assert isinstance(failed.value.__cause__, TypeError)
    saver.close()


def test_the_last_save_waits_until_it_is_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    state, saver = make_state(), make_saver(tmp_path, [])
    order: list[str] = []
    together = Saving(saver, Peers(), torch.device("cpu"))
    step(state)
    together.save(state, last=False)
    step(state)
    opening = threading.Timer(0.2, lambda: (order.append("opened"), disk.open.set()))
    opening.start()
    together.save(state, last=True)
    order.append("saved")
    assert order == ["opened", "saved"]
    assert disk.written == [64, 128]
    together.close()


class Other:
    """Another process, which has been asked for sums and says what its part of each is."""

    def __init__(self, *parts: list[float]) -> None:
        self.parts = iter(parts)
        self.asked: list[list[float]] = []

    def peers(self) -> Peers:
        return Peers(2, self.total, lambda rows: rows)

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        self.asked.append(numbers.tolist())
        return numbers + torch.tensor(next(self.parts), dtype=numbers.dtype)


def test_where_all_write_nobody_saves_before_everybody_is_idle(tmp_path: Path, disk: Disk) -> None:
    state, saver = make_state(), make_saver(tmp_path, [])
    other = Other([0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0], [0.0])
    together = Saving(saver, other.peers(), torch.device("cpu"), divided=True)
    step(state)
    assert not together.consult(True, stop=False).save  # the other one still writes
    assert together.consult(False, stop=False).save  # it stays due
    together.save(state, last=False)
    assert other.asked == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0], [0.0]]  # and waits for the other again
    together.close()
    assert disk.written == [64]


def test_where_all_write_the_first_decides_and_the_others_say_whether_they_are_idle(
    tmp_path: Path, disk: Disk
) -> None:
    disk.open.clear()
    state, saver = make_state(), make_saver(tmp_path, [])
    other = Other([0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    together = Saving(saver, other.peers(), torch.device("cpu"), follows=True, divided=True)
    step(state)
    assert not together.consult(True, stop=False).save
    saver.save(take_snapshot(state))
    assert not together.consult(True, stop=False).save
    assert other.asked == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    disk.open.set()
    together.close()


def test_what_a_checkpoint_counts_on_is_on_the_disk_before_it(tmp_path: Path, disk: Disk) -> None:
    seen: list[bool] = []
    before: Callable[[], None] = lambda: seen.append((tmp_path / "000000000064").exists())  # noqa: E731
    state, saver = make_state(), make_saver(tmp_path, [], before_write=before)
    step(state)
    saver.save(take_snapshot(state))
    saver.close()
    assert seen == [False]
    assert (tmp_path / "000000000064").exists()
