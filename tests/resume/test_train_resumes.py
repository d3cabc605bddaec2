import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_once import train

import stages.train
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError, Interrupted
from pipeline.orchestration.distributed import connect
from pipeline.orchestration.stage import World

DRIVER = Path(__file__).with_name("train_once.py")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes; some lack a modality, some pixels have no value."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(20):
        depth = rng.uniform(1, 5, (32, 32)).astype(np.float32)
        depth[:3] = np.nan
        seg = rng.integers(0, 4, (32, 32), dtype=np.uint8)
        seg[-2:] = 255
        samples.append(
            Sample(
                key=f"s{index:02d}",
                rgb=None if index % 5 == 1 else rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                depth=None if index % 5 == 2 else depth,
                seg=None if index % 7 == 3 else seg,
            )
        )
    directory = tmp_path_factory.mktemp("dataset") / "data"
    write_dataset(
        directory, (("train", sample) for sample in samples), class_names=("a", "b", "c", "d"), image_size=32
    )
    return directory


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    manifest = train(dataset, directory)
    assert manifest.metrics["samples_seen"] == 96
    assert manifest.metrics["loss"] > 0
    return directory


def start(dataset: Path, directory: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(dataset), str(directory), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
    )


def results(directory: Path) -> tuple[bytes, bytes, bytes]:
    return tuple(
        (directory / name).read_bytes() for name in ("model.safetensors", "model.json", "history.jsonl")
    )


def assert_equal(one: Path, other: Path) -> None:
    assert all(a == b for a, b in zip(results(one), results(other), strict=True))


def test_history_has_every_term_of_every_interval(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "history.jsonl").read_text().splitlines()]
    assert [line["samples_seen"] for line in lines] == [24, 48, 72, 96]
    assert list(lines[0]) == [
        *("samples_seen", "loss", "rgb_nll", "depth_nll", "seg_nll", "kl", "kl_private_rgb"),
        *("active_units", "beta", "learning_rate", "gradient_norm"),
    ]
    total = sum(lines[-1][name] for name in ("rgb_nll", "depth_nll", "seg_nll", "kl", "kl_private_rgb"))
    assert lines[-1]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("die", ["saved:2", "saving:3"])
def test_a_killed_training_ends_with_the_same_bytes(
    dataset: Path, uninterrupted: Path, tmp_path: Path, die: str
) -> None:
    process = start(dataset, tmp_path, "--die", die)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.safetensors").exists()
    unfinished = list((tmp_path / "checkpoints").glob(".saving-*"))
    assert len(unfinished) == (1 if die.startswith("saving") else 0)
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        start(
            dataset,
            tmp_path / "two",
            "--double",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in (0, 1)
    ]
    one = start(dataset, tmp_path / "one", "--double")
    for process in (one, *ranks):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
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
