import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from test_checkpoint import assert_same, damage, make_state, train_a_little

from pipeline.training import checkpoint_files
from pipeline.training.checkpoint import TrainingState, resume, save_checkpoint
from pipeline.training.checkpoint_files import Keep, Score, read_best, write_checkpoint


def save_all(
    root: Path, state: TrainingState, steps: int, keep: Keep, best_at: tuple[int, ...] = ()
) -> dict[int, TrainingState]:
    """States by samples_seen; the validation loss falls at some of them."""
    states = {}
    for step in range(1, steps + 1):
        train_a_little(state, 64)
        if step in best_at:
            state.best = Score(state.samples_seen, 10.0 - step)
        save_checkpoint(root, state, keep)
        states[state.samples_seen] = copy.deepcopy(state)
    return states


def names(root: Path) -> list[str]:
    return sorted(path.name.lstrip("0") for path in root.iterdir())


def test_the_first_checkpoint_after_each_multiple_is_kept_for_good(tmp_path: Path) -> None:
    save_all(tmp_path, make_state(), 10, Keep(1, milestone_samples=150))
    assert names(tmp_path) == ["192", "320", "512", "640", "latest"]


def test_the_best_is_kept_apart_from_the_newest(tmp_path: Path) -> None:
    states = save_all(tmp_path, make_state(), 5, Keep(1), best_at=(1, 2))
    assert names(tmp_path) == ["320", "best", "latest"]
    assert read_best(tmp_path) == Score(128, 8.0)
    other = make_state(seed=1)
    (tmp_path / "best").rename(tmp_path / "000000000999")
    assert resume(tmp_path, other, pytest.fail)
    assert_same(states[128], other)
    assert other.best == Score(128, 8.0)


def test_a_best_that_is_written_late_removes_nothing_newer(tmp_path: Path) -> None:
    state = make_state()
    save_all(tmp_path, state, 2, Keep(1, milestone_samples=100))
    files = [("progress.json", b"{}")]
    write_checkpoint(tmp_path, 64, files, Keep(1, milestone_samples=100), Score(64, 1.0), late=True)
    assert names(tmp_path) == ["128", "64", "best", "latest"]
    assert (tmp_path / "latest").read_text() == "000000000128\n"
    assert read_best(tmp_path) == Score(64, 1.0)


@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_while_the_best_is_exchanged_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    state = make_state()
    save_all(tmp_path, state, 1, Keep(1), best_at=(1,))
    rename, calls = Path.rename, iter(range(1, 10))

    class Killed(BaseException):
        pass

    def dying(path: Path, target: Path) -> Path:
        if next(calls) > moment:
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    train_a_little(state, 64)
    state.best = Score(state.samples_seen, 1.0)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, state, Keep(1))
    monkeypatch.undo()
    other, newest = make_state(seed=1), 64 if moment == 1 else 128
    assert resume(tmp_path, other, pytest.fail)
    assert other.samples_seen == newest
    best = read_best(tmp_path)
    assert best is not None
    assert best.samples_seen == newest
    assert checkpoint_files.read_verified(tmp_path / "best")


def empty_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text('{"sha256": {}}')


def truncated(directory: Path) -> None:
    path = directory / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-100])


def missing(directory: Path) -> None:
    (directory / "average.safetensors").unlink()


def flipped(directory: Path) -> None:
    damage(directory / "model.safetensors")


@pytest.mark.parametrize("spoil", [empty_manifest, truncated, missing, flipped])
@pytest.mark.parametrize("left", ["milestone", "best"])
def test_the_newest_valid_one_is_taken_whatever_it_was_kept_for(
    tmp_path: Path, spoil: Callable[[Path], None], left: str
) -> None:
    milestone, best = (None, (2,)) if left == "best" else (128, ())
    states = save_all(tmp_path, make_state(), 5, Keep(2, milestone), best)
    bad = [path for path in tmp_path.iterdir() if path.name.isdecimal() and int(path.name) > 255]
    for path in bad:
        spoil(path)
    warnings: list[str] = []
    other = make_state(seed=1)
    assert resume(tmp_path, other, warnings.append)
    assert_same(states[128], other)
    assert len(warnings) == len(bad) == 2
    assert all(str(path) in "\n".join(warnings) for path in bad)
