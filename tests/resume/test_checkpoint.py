import copy
import errno
import io
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.data.modality import DatasetInfo
from pipeline.errors import InputError
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import weight_bytes
from pipeline.training import checkpoint, checkpoint_files
from pipeline.training.checkpoint import TrainingState, resume, save_checkpoint
from pipeline.training.checkpoint_files import Keep, write_checkpoint
from pipeline.training.history import Interval
from pipeline.training.update import make_optimizer

INFO = DatasetInfo(("seg",), ("a", "b"), 32, {"train": 4})


def make_state(seed: int = 0) -> TrainingState:
    model = build_autoencoder(Model(latent=4, private={}, width=8), Objective(), INFO, seed)
    return TrainingState(model, copy.deepcopy(model), make_optimizer(model, Train()))


def train_a_little(state: TrainingState, samples: int) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.full_like(parameter, samples / 7)
    state.optimizer.step()
    state.samples_seen += samples
    state.interval.add({"loss": 1 / 3})


def contents(state: TrainingState) -> tuple[bytes, bytes, list[torch.Tensor], int, Interval]:
    moments = [value for slots in state.optimizer.state_dict()["state"].values() for value in slots.values()]
    return weight_bytes(state.model), weight_bytes(state.average), moments, state.samples_seen, state.interval


def assert_same(one: TrainingState, other: TrainingState) -> None:
    left, right = contents(one), contents(other)
    assert left[:2] == right[:2]
    assert left[3:] == right[3:]
    assert all(torch.equal(a, b) for a, b in zip(left[2], right[2], strict=True))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_all_of_a_state_returns(tmp_path: Path) -> None:
    state, other = make_state(), make_state(seed=1)
    assert not resume(tmp_path / "none", other, print)
    train_a_little(state, 64)
    saved = save_checkpoint(tmp_path, state, keep=2)
    assert resume(tmp_path, other, pytest.fail)
    assert_same(state, other)
    assert (tmp_path / "latest").read_text() == f"{saved.name}\n"
    train_a_little(state, 64)
    train_a_little(other, 64)
    assert_same(state, other)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = make_state()
    for _ in range(4):
        train_a_little(state, 64)
        save_checkpoint(tmp_path, state, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000192", "000000000256", "latest"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "progress.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, name: str) -> None:
    state, other, warnings = make_state(), make_state(seed=1), []
    train_a_little(state, 64)
    save_checkpoint(tmp_path, state, keep=2)
    good = copy.deepcopy(state)
    train_a_little(state, 64)
    bad = save_checkpoint(tmp_path, state, keep=2)
    damage(bad / name) if name != "manifest.json" else (bad / name).unlink()
    assert resume(tmp_path, other, warnings.append)
    assert_same(good, other)
    assert len(warnings) == 1
    assert str(bad) in warnings[0]


def test_a_damaged_newer_one_never_displaces_a_good_one(tmp_path: Path) -> None:
    state = make_state()
    train_a_little(state, 640)
    damage(save_checkpoint(tmp_path, state, keep=1) / "model.safetensors")
    state = make_state()
    train_a_little(state, 64)
    save_checkpoint(tmp_path, state, keep=1)
    other = make_state(seed=1)
    assert resume(tmp_path, other, pytest.fail)
    assert_same(state, other)


def test_nothing_but_damage_is_refused_with_a_remedy(tmp_path: Path) -> None:
    state = make_state()
    for _ in range(2):
        train_a_little(state, 64)
        damage(save_checkpoint(tmp_path, state, keep=2) / "model.safetensors")
    with pytest.raises(
        InputError, match=r"every checkpoint is damaged \(000000000128, 000000000064\).*--force train"
    ):
        resume(tmp_path, make_state(), lambda line: None)


@pytest.mark.parametrize("failing", ["average.safetensors", "manifest.json"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    state, other = make_state(), make_state(seed=1)
    train_a_little(state, 64)
    save_checkpoint(tmp_path, state, keep=1)
    good, write = copy.deepcopy(state), checkpoint_files._write

    def full(path: Path, content: bytes) -> None:
        if path.name == failing:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint_files, "_write", full)
    train_a_little(state, 64)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, state, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000064", "latest"]
    assert resume(tmp_path, other, pytest.fail)
    assert_same(good, other)


def test_what_a_kill_left_half_written_is_ignored_and_swept_away(tmp_path: Path) -> None:
    state = make_state()
    unfinished = tmp_path / ".saving-000000000640"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert not resume(tmp_path, state, pytest.fail)
    train_a_little(state, 64)
    save_checkpoint(tmp_path, state, keep=1)
    assert not unfinished.exists()


def test_an_optimizer_file_cannot_run_code(tmp_path: Path) -> None:
    state = make_state()
    train_a_little(state, 64)
    files = dict(checkpoint.take_snapshot(state).files())
    hostile = io.BytesIO()
    torch.save({"state": pytest.fail}, hostile)
    write_checkpoint(tmp_path, 64, {**files, "optimizer.pt": hostile.getvalue()}.items(), Keep(1))
    with pytest.raises(pickle.UnpicklingError):
        resume(tmp_path, make_state(), pytest.fail)
