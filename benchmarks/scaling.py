"""What two processes on two cores give over one, and what logging, tracking and checkpoints cost.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/scaling.py [--batch 64] [--rounds 5] [--width 128] [--json FILE]

- Processes: the default model, 64 px, one thread each, float32, the same global batch of random scenes.
  One process and two (gloo) take turns, round after round, each in its own world that waits between turns;
  medians count. `of twice` is the two processes' samples/s over twice the one's; samples per CPU-second do
  not depend on what else runs on the machine. `wide` is two processes with as many rows each as the one
  has. `halves` are two processes that train apart on half the batch each: what two cores of this machine
  give at best, memory and clock shared.
- Sharding: two processes that hold a wider model each, and two that divide it (`train.sharding: full`), in
  turns likewise; what a process holds of weights, average, moments and gradients, and its memory.
- Overhead: the train stage under its supervisor, `train.log_samples`, `checkpoint_samples` and MLflow as in
  configs/demo.yaml, against the same with none of them but the last save (nor the validation that
  chooses the best checkpoint). Counted from the 50th update on
  (importing MLflow takes the supervisor seconds once) to the last: wall time, and CPU time of the training
  process and of the supervisor together.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
WORKER = HERE / "scaling_worker.py"
CONFIG = HERE.parent / "configs" / "demo.yaml"

ARMS = {
    "all of it": [],
    "none of it": [
        "tracking.enabled=false",
        "train.log_samples=1000000000",
        "train.checkpoint_samples=1000000000",
        "train.checkpoint_minutes=null",
        "train.validation_samples=0",
    ],
}


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="over all processes")
    parser.add_argument("--updates", type=int, default=40, help="in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=9600, help="that overhead is measured over")
    parser.add_argument("--width", type=int, default=128, help="of the model that is divided")
    parser.add_argument("--only", choices=["processes", "sharding", "overhead"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, Any] = {"batch": arguments.batch, "cores": os.cpu_count()}
    if arguments.only in (None, "processes"):
        found["processes"] = processes(arguments.batch, arguments.updates, arguments.rounds)
    if arguments.only in (None, "sharding"):
        updates = max(2, arguments.updates // 10)
        found["sharding"] = sharding(arguments.batch, arguments.width, updates, arguments.rounds)
    if arguments.only in (None, "overhead"):
        found["overhead"] = overhead(arguments.batch, arguments.samples, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def processes(batch: int, updates: int, rounds: int) -> dict[str, Any]:
    """Samples per second and per CPU-second of one process, of two together, and of two apart."""
    worlds = {
        "one": World([(0, 1)], batch),
        "two": World([(0, 2), (1, 2)], batch),
        "wide": World([(0, 2), (1, 2)], 2 * batch),
        "halves": World([(0, 1), (0, 1)], batch // 2),
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in worlds}
    for number in range(rounds + 1):
        for name, world in worlds.items():
            seconds, cpu, *_ = world.turn(updates)
            if number:  # the first is to warm up
                samples = updates * (2 * batch if name == "wide" else batch)
                turns[name].append((samples / seconds, samples / cpu))
    for world in worlds.values():
        world.end()
    rates = {
        name: {"samples_per_s": median(wall for wall, _ in all_), "per_cpu_s": median(cpu for _, cpu in all_)}
        for name, all_ in turns.items()
    }
    print(f"global batch {batch}, medians of {rounds}")
    print(f"{'':10}{'samples/s':>11}{'of twice':>10}{'per CPU-s':>11}")
    for name, rate in rates.items():
        rate["of_twice"] = rate["samples_per_s"] / (2 * rates["one"]["samples_per_s"])
        print(f"{name:10}{rate['samples_per_s']:11.1f}{rate['of_twice']:10.2f}{rate['per_cpu_s']:11.1f}")
    return rates


def sharding(batch: int, width: int, updates: int, rounds: int) -> dict[str, Any]:
    """Speed and memory of two processes that each hold a model, and of two that divide it."""
    found = {}
    print(f"global batch {batch}, width {width}, two processes, medians of {rounds}")
    print(f"{'sharding':10}{'samples/s':>11}{'per CPU-s':>11}{'state, MB':>11}{'memory, MB':>12}")
    for kind in ("none", "full"):  # one after the other: both at once may not fit
        world = World([(0, 2), (1, 2)], batch, str(width), kind)
        turns = [world.turn(updates) for _ in range(rounds + 1)][1:]
        world.end()
        found[kind] = {
            "samples_per_s": batch * updates / median(seconds for seconds, *_ in turns),
            "per_cpu_s": batch * updates / median(cpu for _, cpu, *_ in turns),
            "state_mb": turns[-1][2] / 1e6,
            "memory_mb": turns[-1][3] / 1e6,
        }
        rate, per_cpu, state, memory = found[kind].values()
        print(f"{kind:10}{rate:11.1f}{per_cpu:11.1f}{state:11.0f}{memory:12.0f}")
    return found


class World:
    """Processes that wait until it is their turn."""

    def __init__(self, ranks: list[tuple[int, int]], batch: int, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self._processes = []
        for rank, size in ranks:
            among = {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            environment = os.environ | (among if size > 1 else {})  # alone it is not started by torchrun
            command = [sys.executable, str(WORKER), str(batch), *options]
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )

    def turn(self, updates: int) -> tuple[float, float, int, int]:
        """Let them make some updates.

        Returns:
            The slowest one's seconds, everybody's CPU-seconds, the most that one holds of a state, and the
            most memory of one, in bytes.
        """
        for process in self._processes:
            assert process.stdin
            process.stdin.write(f"{updates}\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout
            answers.append(json.loads(process.stdout.readline()))
        seconds, cpu, states, memory = zip(*answers, strict=True)
        return max(seconds), sum(cpu), max(states), max(memory)

    def end(self) -> None:
        """Close them, all at once: they leave together."""
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        for process in self._processes:
            process.wait()


def overhead(batch: int, samples: int, rounds: int) -> dict[str, Any]:
    """Seconds and CPU-seconds of a training with everything around it, and with nothing."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory(prefix="scaling-") as directory:
        root = Path(directory)
        _train(root, "prepare", [*ARMS["all of it"], f"train.batch={batch}", f"train.samples={60 * batch}"])
        for number in range(rounds):
            for name, overrides in ARMS.items():
                chosen = [*overrides, f"train.batch={batch}", f"train.samples={samples}"]
                turns[name].append(_train(root, f"turn-{number}-{len(overrides)}", chosen))
    print(
        f"\ntraining on {samples} samples, medians of {rounds}\n{'':14}{'s':>9}{'CPU-s':>9}{'supervisor':>12}"
    )
    found: dict[str, Any] = {}
    for name, all_ in turns.items():
        found[name] = {key: median(turn[key] for turn in all_) for key in all_[0]}
        said = found[name]
        print(f"{name:14}{said['wall_s']:9.2f}{said['cpu_s']:9.2f}{said['supervisor_cpu_s']:12.2f}")
    whole, bare = found["all of it"], found["none of it"]
    found["wall_share"] = whole["wall_s"] / bare["wall_s"] - 1
    total = [said["cpu_s"] + said["supervisor_cpu_s"] for said in (whole, bare)]
    found["cpu_share"] = total[0] / total[1] - 1
    print(f"overhead: {found['wall_share']:.1%} of the wall time, {found['cpu_share']:.1%} of the CPU time")
    return found


def _train(root: Path, name: str, overrides: list[str]) -> dict[str, float]:
    """Train once through the supervisor, which is this process's child."""
    words = [f"name={name}", "data.source.count=2000", *overrides]
    command = [sys.executable, str(WORKER), "supervise", str(CONFIG), str(root), *words]
    started_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"after {time.monotonic() - started_s:.0f} s: {done.stderr}")
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


if __name__ == "__main__":
    main()
