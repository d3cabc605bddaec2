import errno
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes_together import finish, start, succeed
from safetensors.torch import load_file
from train_once import CONFIG, train

import stages.train
from pipeline.data.batch import Batch
from pipeline.errors import Failed, InputError, Interrupted
from pipeline.orchestration.distributed import connect
from pipeline.orchestration.stage import World
from pipeline.training import checkpoint_files, history, losses, update


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    manifest = train(dataset, directory)
    assert manifest.metrics["samples_seen"] == 96
    assert manifest.metrics["loss"] > 0
    return directory


def results(directory: Path) -> tuple[bytes, bytes, bytes]:
    return tuple(
        (directory / name).read_bytes() for name in ("model.safetensors", "model.json", "history.jsonl")
    )


def assert_equal(one: Path, other: Path) -> None:
    assert all(a == b for a, b in zip(results(one), results(other), strict=True))


def test_history_has_every_term_of_every_interval(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "history.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val_loss" in line]
    assert [line["samples_seen"] for line in validated] == [16, 32, 48, 64, 80, 96]
    lines = [line for line in lines if "loss" in line]
    assert [line["samples_seen"] for line in lines] == [24, 48, 72, 96]
    assert list(lines[0]) == [
        *("samples_seen", "loss", "rgb_nll", "depth_nll", "seg_nll", "kl", "kl_private_rgb"),
        *("active_units", "beta", "learning_rate", "gradient_norm"),
    ]
    total = sum(lines[-1][name] for name in ("rgb_nll", "depth_nll", "seg_nll", "kl", "kl_private_rgb"))
    assert lines[-1]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("die", ["saved:1", "saving:2", "writing:8"])
def test_a_killed_training_ends_with_the_same_bytes(
    dataset: Path, uninterrupted: Path, tmp_path: Path, die: str
) -> None:
    codes, said = finish(start("train_once.py", dataset, tmp_path, "--die", die))
    assert codes == [-signal.SIGKILL], said
    assert not (tmp_path / "model.safetensors").exists()
    unfinished = list((tmp_path / "checkpoints").glob(".saving-*"))
    assert bool(unfinished) == (not die.startswith("saved"))
    manifest = train(dataset, tmp_path)
    assert manifest.metrics["samples_seen"] == 96
    assert_equal(uninterrupted, tmp_path)


def test_a_stopped_training_ends_with_the_same_bytes(
    dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    for stop_after in (0, 4):  # the second within an interval of the history and after another epoch began
        with pytest.raises(Interrupted, match="a checkpoint is saved"):
            train(dataset, tmp_path, stop_after=stop_after)
    assert train(dataset, tmp_path).metrics["samples_seen"] == 96
    assert_equal(uninterrupted, tmp_path)


def test_a_damaged_newest_checkpoint_costs_samples_but_not_the_result(
    dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(dataset, tmp_path, stop_after=6)
    newest = sorted((tmp_path / "checkpoints").glob("0*"))[-1]
    (newest / "average.safetensors").write_bytes(b"")
    train(dataset, tmp_path)
    assert_equal(uninterrupted, tmp_path)


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "history.jsonl").read_text().splitlines()]
    losses = {line["samples_seen"]: line["val_loss"] for line in lines if "val_loss" in line}
    best = json.loads((uninterrupted / "checkpoints" / "best" / "best.json").read_text())
    assert best["samples_seen"] == min(losses, key=losses.__getitem__)
    assert best["val_loss"] == losses[best["samples_seen"]]
    assert losses[96] < losses[16]


def test_cadence_has_no_effect_on_the_model(dataset: Path, uninterrupted: Path, tmp_path: Path) -> None:
    often = CONFIG.train.model_copy(
        update={
            "checkpoint_samples": 8,
            "checkpoint_minutes": 1e-9,
            "milestone_samples": 30,
            "validation_samples": 3,
        }
    )
    rarely = CONFIG.train.model_copy(update={"checkpoint_samples": 10**6, "validation_samples": 0})
    for name, config in (("often", often), ("rarely", rarely)):
        train(dataset, tmp_path / name, config=config)
        assert results(tmp_path / name)[:2] == results(uninterrupted)[:2]
    assert not (tmp_path / "rarely" / "checkpoints" / "best").exists()


def test_a_full_disk_in_the_middle_costs_checkpoints_but_not_the_result(
    dataset: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, said = checkpoint_files._write, []

    def full(path: Path, content: bytes) -> None:
        if "96" not in path.parent.name and path.name == "optimizer.pt":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    append_at = history.append_at

    def nearly_full(path: Path, size: int, content: bytes) -> None:
        lines = content.splitlines() or [b"{}"]
        if 24 <= json.loads(lines[-1]).get("samples_seen", 0) < 96:
            append_at(path, size, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append_at(path, size, content)

    monkeypatch.setattr(history, "append_at", nearly_full)
    monkeypatch.setattr(checkpoint_files, "_write", full)
    monkeypatch.setattr(checkpoint_files, "_link", lambda file, name: write(name, file.read_bytes()))
    train(dataset, tmp_path, say=said.append)
    assert_equal(uninterrupted, tmp_path)
    assert sum("could not be written" in line for line in said) == 1


def test_a_disk_that_is_full_at_a_stop_fails_and_keeps_the_last_good_one(
    dataset: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(dataset, tmp_path, stop_after=2)
    write = checkpoint_files._write

    def full(path: Path, content: bytes) -> None:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_files, "_write", full)
        with pytest.raises(InputError, match=r"the disk is full.*the last good one is 000000000024"):
            train(dataset, tmp_path, stop_after=2)
    assert not list((tmp_path / "checkpoints").glob(".saving-*"))
    train(dataset, tmp_path)
    assert_equal(uninterrupted, tmp_path)


def test_a_bad_number_names_the_samples_and_keeps_the_last_good_one(
    dataset: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    negative_elbo = losses.negative_elbo

    def breaking(model: Any, output: Any, batch: Batch, *arguments: Any, **options: Any) -> Any:
        if "s05" in batch.key and options["samples_seen"] > 48:
            batch.modalities["rgb"].value[batch.key.index("s05")] = torch.nan
        return negative_elbo(model, output, batch, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(losses, "negative_elbo", breaking)
        with pytest.raises(
            Failed, match=r"rgb_nll = nan.*samples whose own loss is not finite: s05 \(1 of the 8"
        ):
            train(dataset, tmp_path)
    train(dataset, tmp_path)
    assert_equal(uninterrupted, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_met_with_advice_and_keeps_the_last_good_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model_loss = update.model_loss

    def hungry(model: Any, discriminators: Any, done: Any, *arguments: Any, **options: Any) -> Any:
        if done.samples_seen > 24:
            raise error
        return model_loss(model, discriminators, done, *arguments, **options)

    monkeypatch.setattr(update, "model_loss", hungry)
    with pytest.raises(Failed, match=r"out of memory after 24 samples .* train.accumulation: 2"):
        train(dataset, tmp_path)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "000000000016\n"


def test_a_finished_training_that_is_run_again_changes_nothing(
    dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    before = results(uninterrupted)
    train(dataset, uninterrupted)
    assert results(uninterrupted) == before


def test_precision_is_decided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(World(), "cpu") as processes:
        monkeypatch.setattr(stages.train, "native_bf16", lambda device: True)
        assert stages.train._bf16("auto", tmp_path, processes)
        monkeypatch.setattr(stages.train, "native_bf16", lambda device: False)
        with pytest.raises(InputError, match="began in bf16, which this machine does not compute natively"):
            stages.train._bf16("auto", tmp_path, processes)
        (tmp_path / "hardware.json").unlink()
        assert not stages.train._bf16("auto", tmp_path, processes)
        monkeypatch.setattr(stages.train, "native_bf16", lambda device: True)
        assert not stages.train._bf16("auto", tmp_path, processes)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(dataset: Path, tmp_path: Path) -> None:
    one = start("train_once.py", dataset, tmp_path / "one", "--double")
    two = start("train_once.py", dataset, tmp_path / "two", "--double", size=2)
    succeed([*one, *two])
    single, double = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert single.keys() == double.keys()
    for name, tensor in single.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, double[name], rtol=0, atol=1e-12)
    histories = [
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [line.keys() for line in histories[0]] == [line.keys() for line in histories[1]]
    for left, right in zip(*histories, strict=True):
        assert list(left.values()) == pytest.approx(list(right.values()), rel=1e-7)
