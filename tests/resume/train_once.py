"""Run the train stage once, as a worker would, and die where the test says.

    python train_once.py DATASET DIRECTORY [--die saved:N | saving:N | writing:N | part:N] [--double]
        [--divided] [--stop-after UPDATES] [--full-disk N]

`saved:N` kills at the end of the N-th checkpoint, `saving:N` before the N-th temporary directory gets its
name, `writing:N` with half of the N-th file written, `part:N` with half of the N-th part of divided weights.
All of it happens in the thread that saves. `--full-disk N` refuses the N-th part.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import stages.train
from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.errors import InputError, Interrupted
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


def change_part(count: int, change: Callable[[Path], None]) -> None:
    """Do something to the `count`-th part of divided weights that this process has written."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    original, calls = FileSystemWriter.write_data, iter(range(1, 10**6))

    def step(writer: Any, *arguments: Any) -> Any:
        written = original(writer, *arguments)
        if next(calls) == count:
            change(Path(writer.path))
        return written

    FileSystemWriter.write_data = step  # type: ignore[method-assign]


def cut_and_die(directory: Path) -> None:
    for part in directory.glob(f"__{os.environ['RANK']}_*"):
        os.truncate(part, part.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(directory: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


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
    parser.add_argument("--divided", action="store_true")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--full-disk", type=int)
    arguments = parser.parse_args()
    if arguments.die:
        what, _, count = arguments.die.partition(":")
        change_part(int(count), cut_and_die) if what == "part" else die_at(what, int(count))
    if arguments.full_disk:
        change_part(arguments.full_disk, no_space)
    if arguments.double:
        in_double_precision()
    rank, size = (
        int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    sharding = "full" if arguments.divided else "none"
    try:
        train(
            arguments.dataset,
            arguments.directory,
            World(rank, size, rank, size),
            stop_after=arguments.stop_after,
            config=CONFIG.train.model_copy(update={"sharding": sharding}),
            say=lambda line: print(line, file=sys.stderr),
        )
    except (InputError, Interrupted) as error:
        sys.exit(f"{type(error).__name__}: {error}")
