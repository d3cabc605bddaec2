import json
from pathlib import Path

import pytest
import torch
from processes_together import start, succeed
from safetensors.torch import load_file
from small_systems import UPDATES, begin, learn, names, updates, weights

from pipeline.training.checkpoint import TrainingState, resume, save_checkpoint


def run(name: str, state: TrainingState, first: int, last: int) -> list[dict[str, float]]:
    return learn(updates(name, state), state, torch.float32, first, last)


@pytest.mark.parametrize("name", names())
def test_a_resumed_system_equals_an_uninterrupted_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = begin(name, torch.float32)
    reports = run(name, whole, 0, UPDATES)
    assert reports[-1]["loss"] != reports[0]["loss"]

    part = begin(name, torch.float32)
    run(name, part, 0, UPDATES // 2)
    save_checkpoint(tmp_path, part, keep=1)
    again = begin(name, torch.float32)
    assert resume(tmp_path, again, pytest.fail)
    assert run(name, again, UPDATES // 2, UPDATES) == reports[UPDATES // 2 :]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every system trained by one process, by two that hold the model each, and by two that divide it."""
    directories = {how: tmp_path_factory.mktemp(how) for how in ("one", "two", "divided")}
    processes = []
    for how, directory in directories.items():
        size, divided = 1 if how == "one" else 2, str(int(how == "divided"))
        processes += start("systems_in_processes.py", directory, size=size, DIVIDED=divided)
    succeed(processes)
    return directories


@pytest.mark.slow
@pytest.mark.parametrize("how", ["two", "divided"])
@pytest.mark.parametrize("name", names())
def test_two_processes_train_the_same_players_as_one(name: str, how: str, trained: dict[str, Path]) -> None:
    pair = trained["one"], trained[how]
    single, double = (load_file(directory / f"{name}.safetensors") for directory in pair)
    assert single.keys() == double.keys()
    for key, value in single.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(
            double[key], value, rtol=0, atol=1e-9, msg=lambda said, key=key: f"{key}: {said}"
        )
    histories = [json.loads((directory / f"{name}.json").read_text()) for directory in pair]
    for left, right in zip(*histories, strict=True):
        assert left.keys() == right.keys()
        assert list(left.values()) == pytest.approx(list(right.values()), rel=1e-5)
