from pathlib import Path

import pytest
import torch
from processes_together import start, succeed
from safetensors.torch import load_file
from small_systems import BATCH, UPDATES, begin, choose, learn, names, updates, weights
from train_once import CONFIG, train

from pipeline.config import load_config
from pipeline.config.accumulation import indivisible
from pipeline.config.training import Train
from pipeline.errors import InputError
from pipeline.orchestration.stage import World
from pipeline.training.checkpoint import TrainingState

TWO = Train(batch=BATCH, accumulation=2)
REFUSED = {
    "betatc": "tc mixes the posteriors",
    "capacity": "capacity is held on the mean",
    "factor": "tc permutes latents",
    "free_bits": "free_bits are counted on the mean",
    "wae": "mmd compares all its rows",
}


def run(name: str, accumulation: int, steps: int = 3) -> tuple[TrainingState, list[dict[str, float]]]:
    state = begin(name, torch.float64)
    update = updates(name, state, accumulation=accumulation)
    return state, learn(update, state, torch.float64, 0, steps)


@pytest.mark.parametrize("name", names())
def test_micro_batches_train_the_same_players_or_are_refused_with_the_reason(name: str) -> None:
    reasons = list(indivisible(*choose(name), TWO))
    assert [REFUSED[name] in reason for reason in reasons] == ([True] if name in REFUSED else [])
    if name in REFUSED:
        return
    (whole, expected), (parts, reports) = run(name, 1), run(name, 4)
    for one, other in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)
    for left, right in zip(expected, reports, strict=True):
        assert list(left) == list(right)
        assert list(right.values()) == pytest.approx(list(left.values()), rel=1e-6)


@pytest.mark.slow
def test_micro_batches_in_two_processes_train_the_same_players(tmp_path: Path) -> None:
    chosen = ["vaegan", "avb"]
    succeed(start("systems_in_processes.py", tmp_path, 2, *chosen, size=2))
    for name in chosen:
        state, _ = run(name, 1, UPDATES)
        expected = {f"model.{key}": value for key, value in state.model.state_dict().items()}
        expected |= {f"players.{key}": value for key, value in state.discriminators.state_dict().items()}
        for key, value in load_file(tmp_path / f"{name}.safetensors").items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-9)


def test_a_batch_that_cannot_be_divided_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ndata: {source: {kind: rooms}}\ntrain: {batch: 8, accumulation: 3}\n")
    with pytest.raises(InputError, match=r"accumulation: 3 does not divide train.batch: 8; choose batch: 9"):
        load_config(path)
    config = CONFIG.train.model_copy(update={"accumulation": 4})
    with pytest.raises(InputError, match=r"train.batch: 8 cannot be divided into 16 equal parts .* use 16"):
        train(tmp_path, tmp_path, World(0, 4, 0, 4), config=config)
