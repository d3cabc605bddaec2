"""Processes of benchmarks/scaling.py: a rank that trains when told to, and a supervised train stage.

RANK=0 WORLD_SIZE=1 ... python scaling_worker.py BATCH [WIDTH [SHARDING]]
                                                              updates on stdin, seconds on stdout
python scaling_worker.py supervise CONFIG ROOT OVERRIDE ...   shard and train, then what it took
python scaling_worker.py --job FILE                           one stage, as the supervisor starts it
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

LOOK_S = 0.1

SETTLED = 50
"""Updates after which the clock starts: by then the supervisor has imported MLflow, which it does once."""


def train_when_told(batch_size: int, width: int | None = None, sharding: str = "none") -> None:
    """Make as many updates as each line of the input says; answer with seconds, CPU-seconds and memory."""
    import torch
    from train import random_batch, scene_info

    from pipeline.config.model import Model
    from pipeline.config.objective import Objective
    from pipeline.config.training import Train
    from pipeline.models.autoencoder import build_autoencoder
    from pipeline.orchestration.distributed import connect
    from pipeline.orchestration.stage import World
    from pipeline.training.update import Rules, make_update, start

    torch.set_num_threads(1)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    world = World(rank, size, rank, size)
    section = Model(width=width) if width else Model()
    with connect(world, "cpu") as processes:
        config = Train(batch=batch_size, samples=10**9)
        model = build_autoencoder(section, Objective(), scene_info(("rgb", "depth", "seg")), seed=0)
        divide = processes.divide if sharding == "full" else lambda whole: None
        state = start(model, Objective(), config, seed=0, divide=divide)
        rules = Rules(section, Objective(), config, seed=0, rank=rank, world_size=size, dataset_size=10_000)
        update = make_update(state, processes.wrap(state.model), rules, processes.peers())
        batch = random_batch(batch_size)
        rows = batch.rows(rank * batch_size // size, (rank + 1) * batch_size // size)
        for line in sys.stdin:
            processes.wait()
            began_s, cpu_s = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                update(rows)
                state.samples_seen += batch_size
                processes.any(False)  # as the loop asks after every update
            answer = [time.perf_counter() - began_s, time.process_time() - cpu_s]
            print(json.dumps([*answer, state_bytes(state), resident_bytes()]), flush=True)


def state_bytes(state: Any) -> int:
    """What this process holds of weights, average, moments and gradients."""
    from pipeline.training.checkpoint_sharded import tensors_of
    from pipeline.training.sharding import local

    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    return sum(local(tensor).nbytes for tensor in [*tensors_of(state).values(), *gradients])


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Clock:
    """A stage's progress that also notes when its advance number SETTLED and its last one were."""

    def __init__(self, inner: object, file: Path) -> None:
        self._inner, self._file, self._first, self._count = inner, file, None, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def advance(self, *arguments: object) -> None:
        """Pass it on."""
        self._inner.advance(*arguments)
        now = (time.perf_counter(), time.process_time())
        self._count += 1
        if self._count == SETTLED:
            self._first = now
        self._last = now

    def finish(self) -> None:
        """Write down what lay between."""
        self._inner.finish()
        if self._first:
            self._file.write_text(json.dumps([*self._first, *self._last]))


def work() -> int:
    """Do a job as `stages.worker` does, with a clock in it."""
    from dataclasses import replace

    from stages import worker

    def run(config: object, context: object, stage: str) -> object:
        if stage == "train":
            context = replace(context, progress=Clock(context.progress, context.root / "clock.json"))
        return worker.run_stage(config, context, stage)

    return worker.main(run, "scaling_worker")


def supervise(config_path: str, root: Path, overrides: list[str]) -> None:
    """Run shard and train; print wall and CPU seconds of training, and the supervisor's meanwhile."""
    from pipeline.config import load_config
    from pipeline.orchestration import supervisor
    from pipeline.orchestration.origin import Origin
    from pipeline.orchestration.plan import Selection

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
    config = load_config(Path(config_path), overrides)
    seen = []

    def look() -> None:
        while True:
            seen.append((time.perf_counter(), time.process_time()))
            time.sleep(LOOK_S)

    threading.Thread(target=look, daemon=True).start()
    launch = supervisor.Launch("scaling_worker")
    supervisor.run(config, Origin(config_path), root, Selection(last="train"), launch)
    began_s, cpu_s, ended_s, cpu_end_s = json.loads((root / "clock.json").read_text())
    mine = [cpu for at, cpu in seen if began_s <= at <= ended_s]
    taken = {
        "wall_s": ended_s - began_s,
        "cpu_s": cpu_end_s - cpu_s,
        "supervisor_cpu_s": mine[-1] - mine[0],
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    if "--job" in sys.argv:
        sys.exit(work())
    if sys.argv[1] == "supervise":
        supervise(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        width = int(sys.argv[2]) if sys.argv[2:] else None
        train_when_told(int(sys.argv[1]), width, *sys.argv[3:])
