"""Run the train stage once, as a worker would, and die where the test says.

    python train_once.py DATASET DIRECTORY [--die saved:N | saving:N | writing:N] [--double]

`saved:N` kills at the end of the N-th checkpoint, `saving:N` before the N-th temporary directory gets its
name, `writing:N` with half of the N-th file written. All of it happens in the thread that saves.
"""

import argparse
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import stages.train
from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest, World
from pipeline.training import checkpoint_files
from stages.train import TrainInputs

CONFIG = TrainInputs(
    Model(latent=6, private={"rgb": 3}, width=8),
    Objective(beta_warmup_samples=32),
    Train(
        samples=96,
        batch=8,
        warmup_samples=16,
        ema_half_life_samples=16,
        log_samples=24,
        checkpoint_samples=16,
        precision="fp32",
        device="cpu",
    ),
)


class Saying(Progress):
    """Shows nothing and passes on what is said."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__("train", silent=True)
        self._pass_on = say

    def say(self, line: str) -> None:
        self._pass_on(line)


def train(
    dataset: Path,
    directory: Path,
    world: World | None = None,
    stop_after: int | None = None,
    config: Train | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    asked = iter(range(10**6))
    context = Context(
        run_name="test",
        seed=0,
        root=directory,
        directory=directory,
        inputs={"dataset": dataset},
        world=world or World(),
        progress=Saying(say),
        stop_requested=lambda: stop_after is not None and next(asked) >= stop_after,
    )
    return stages.train.run(replace(CONFIG, train=config or CONFIG.train), context)


def die_at(what: str, count: int) -> None:
    """Replace a step of saving by the same step and a kill, the `count`-th time."""
    name = {"saved": "_prune", "saving": "sync_directory", "writing": "_write"}[what]
    original, calls = getattr(checkpoint_files, name), iter(range(1, 10**6))

    def step(*arguments: Any) -> None:
        if what == "saving" and ".saving-" not in str(arguments[0]):
            return original(*arguments)
        last = next(calls) == count
        if last and what == "writing":
            path, content = arguments
            original(path, content[: len(content) // 2])
        else:
            original(*arguments)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(checkpoint_files, name, step)


def in_double_precision() -> None:
    """Build models in float64, so that only the order of sums is left to differ."""
    original = stages.train.build_autoencoder
    stages.train.build_autoencoder = lambda *arguments: original(*arguments).double()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--die")
    parser.add_argument("--double", action="store_true")
    arguments = parser.parse_args()
    if arguments.die:
        what, _, count = arguments.die.partition(":")
        die_at(what, int(count))
    if arguments.double:
        in_double_precision()
    rank, size = (
        int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    train(arguments.dataset, arguments.directory, World(rank, size, rank, size))
