"""One stage in a process of its own, or in several: read the job, do it, commit it.

Started by the supervisor as `python -m stages.worker --job FILE`. Exit codes: 0 committed, 1 failed,
2 bad input (the message is printed), 75 stopped on request.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipeline.config import Config
from pipeline.errors import Interrupted, as_input_error
from pipeline.orchestration.job import Job, read_job
from pipeline.orchestration.ledger import RESUMABLE, commit, fail, read_record, write_record
from pipeline.orchestration.processes import PARENT, die_with_parent
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest, World

StageRun = Callable[[Config, Context, str], Manifest]


def run_stage(config: Config, context: Context, stage: str) -> Manifest:
    """Call a stage with its own part of the config; imports nothing of the others."""
    if stage != "shard":
        _make_deterministic()
    match stage:
        case "shard":
            from stages import shard

            return shard.run(config.data, context)
        case "train":
            from stages import train

            return train.run(train.TrainInputs(config.model, config.objective, config.train), context)
        case "evaluate":
            from stages import evaluate

            return evaluate.run(config.evaluate, context)
        case "adapt":
            from stages import adapt

            return adapt.run(config.adapt, context)
        case "analyze":
            from stages import analyze

            return analyze.run(config.analyze, context)
        case _:
            from stages import synthesize

            return synthesize.run(config.synthesize, context)


def main(run: StageRun = run_stage, module: str = "stages.worker") -> int:
    """Do the job named on the command line.

    Args:
        run: What does a stage's work; tests give their own.
        module: What the processes of a distributed stage are started as.

    Returns:
        The exit code.
    """
    die_with_parent()
    parser = argparse.ArgumentParser(prog=module, description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--max-restarts", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.processes > 1:
        return _start_processes(
            arguments.processes, arguments.max_restarts, [module, "--job", str(arguments.job)]
        )
    return _work(read_job(arguments.job), run)


def _work(job: Job, run: StageRun) -> int:
    stage = job.record.stage
    world = _world()
    progress = Progress(stage, silent=not world.is_main, file=job.progress_file)
    stop = _stop_on_request(progress, resumable=stage in RESUMABLE)
    config = Config.model_validate(job.config)
    context = Context(
        run_name=config.name,
        seed=config.seed,
        root=job.root,
        directory=job.place.working,
        inputs=job.inputs,
        world=world,
        progress=progress,
        stop_requested=stop.is_set,
        peer_failure=lambda: _failure(job),
    )
    try:
        if world.is_main:
            write_record(job.place.working, job.record)  # it says failed where torchrun starts us once more
        with progress:
            manifest = run(config, context, stage)
        if world.is_main:
            commit(job.place, job.record, manifest, job.root)
    except Interrupted:
        return 75
    except Exception as error:  # noqa: BLE001 (the border of the process: everything becomes an exit code)
        return _report(error, job)
    return 0


def _failure(job: Job) -> str | None:
    """What any process of the stage recorded when it failed."""
    record = read_record(job.place.working)
    return record.error if record and record.state == "failed" else None


def _report(error: Exception, job: Job) -> int:
    """Print what went wrong and record it; the exit code."""
    refused = as_input_error(error)
    with contextlib.suppress(OSError):  # on a full disk there is no room for the record either
        fail(job.place, job.record, str(refused) if refused else f"{type(error).__name__}: {error}")
    if refused:
        print(f"triptych: {job.record.stage}: {refused}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _stop_on_request(progress: Progress, *, resumable: bool) -> threading.Event:
    """Let SIGTERM ask a resumable stage to save and stop, and end any other at once."""
    requested = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if not resumable:
            progress.finish()
            os._exit(75)  # nothing to save, and no pool of processes to wait for
        requested.set()

    signal.signal(signal.SIGTERM, handle)
    return requested


def _world() -> World:
    """This process among its peers, as torchrun tells it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    defaults = ("0", "1", "0", "1")
    return World(*(int(os.environ.get(name, default)) for name, default in zip(names, defaults, strict=True)))


def _make_deterministic() -> None:
    """The threads that the supervisor decided and, on a GPU, deterministic kernels."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _start_processes(processes: int, max_restarts: int, command: list[str]) -> int:
    """Start the stage in several processes with torchrun's agent and wait for them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # the workers speak for themselves
    os.environ[PARENT] = str(os.getpid())
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"triptych-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(launch, sys.executable)("-u", "-m", *command)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException:
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
