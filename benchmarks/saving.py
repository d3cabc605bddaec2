"""What a checkpoint costs a step: written by the loop itself, and behind its back.

    python benchmarks/saving.py [--batch 32] [--threads 1] [--rounds 15] [--directory DIR] [--json FILE]

The default network trains on random 64 px scenes (RGB, depth and labels). In turn, `every` updates follow
a checkpoint that the loop writes itself, one that a thread writes, and none. Per turn counts

- `held`: seconds the loop stands still at the checkpoint;
- `slower`: how much longer the updates after it take than those after none, which is what the thread's work
  costs on a machine whose cores are all busy;
- `share`: both together, of the time between checkpoints with the default `train.checkpoint_samples`.

Medians over rounds. `--directory` chooses the file system.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import train as train_benchmark

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.models.autoencoder import build_autoencoder
from pipeline.training.checkpoint import save_checkpoint, take_snapshot
from pipeline.training.checkpoint_files import Keep
from pipeline.training.saving import Saver
from pipeline.training.update import Rules, make_update, start

WAYS = ("none", "by the loop", "behind its back")


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--every", type=int, default=4, help="updates in each turn")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        times = measure(arguments.batch, arguments.rounds, arguments.every, Path(directory))
    update_s = statistics.median(after for _, after in times["none"]) / arguments.every
    interval_s = Train().checkpoint_samples / arguments.batch * update_s
    result: dict[str, float | dict[str, float]] = {"update_s": update_s, "interval_s": interval_s}
    print(f"an update of {arguments.batch} samples: {1e3 * update_s:.0f} ms")
    print(f"{'checkpoint':18}{'held, ms':>10}{'slower, ms':>12}{'share':>8}")
    for way in WAYS[1:]:
        held_s = statistics.median(held for held, _ in times[way])
        slower_s = statistics.median(after for _, after in times[way]) - arguments.every * update_s
        share = (held_s + max(0.0, slower_s)) / interval_s
        result[way] = {"held_s": held_s, "slower_s": slower_s, "share": share}
        print(f"{way:18}{1e3 * held_s:10.1f}{1e3 * slower_s:12.1f}{share:8.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def measure(batch: int, rounds: int, every: int, root: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds at the checkpoint, and of the updates after it, by the way it is written."""
    config, objective, train = Model(), Objective(), Train(batch=batch)
    scenes = train_benchmark.random_batch(batch)
    model = build_autoencoder(
        config, objective, train_benchmark.scene_info(train_benchmark.MODALITIES), seed=0
    )
    state = start(model, objective, train, seed=0)
    update = make_update(state, model, Rules(config, objective, train, seed=0))
    saver = Saver(root / "thread", Keep(2), minutes=None, before_write=lambda: None, say=print)
    ways: dict[str, Callable[[], object]] = {
        "none": lambda: None,
        "by the loop": lambda: save_checkpoint(root / "loop", state, 2),
        "behind its back": lambda: saver.save(take_snapshot(state)),
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, checkpoint in ways.items():
            begun = time.perf_counter()
            checkpoint()
            saved = time.perf_counter()
            for _ in range(every):
                update(scenes)
                state.samples_seen += batch
            if number:  # the first round warms up
                times[way].append((saved - begun, time.perf_counter() - saved))
            saver.wait(600.0)
    saver.close()
    return times


if __name__ == "__main__":
    main()
