"""One stage in a process of its own, or in several: read the job, do it, commit it.

Started by the supervisor as `python -m stages.worker --job FILE`. Exit codes: 0 committed, 1 failed,
2 bad input (the message is printed), 3 another process of the stage failed or was
lost, 75 stopped on request.
"""

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipeline.config import Config
from pipeline.errors import (
    STOP_SIGNALS,
    Failed,
    InputError,
    Interrupted,
    Overtaken,
    PeerFailed,
    as_input_error,
)
from pipeline.orchestration.job import Job, read_job
from pipeline.orchestration.ledger import RESUMABLE, commit, fail, read_record, write_record
from pipeline.orchestration.nodes import Meeting
from pipeline.orchestration.nodes_agent import (
    RESTARTS,
    STOP_FILE,
    UNDER_AGENT,
    is_lost_contact,
    run_processes,
)
from pipeline.orchestration.processes import FAILED_ELSEWHERE, STOPPED, die_with_parent
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest, World

TURN_S, LAST_TURN = 0.2, 10
"""A process that failed waits so long for each before it, up to so many."""

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


def main(
    run: StageRun = run_stage, module: str = "stages.worker", start: Callable[..., int] = run_processes
) -> int:
    """Do the job named on the command line.

    Args:
        run: What does a stage's work; tests give their own.
        module: What the processes of a distributed stage are started as.
        start: What starts them.

    Returns:
        The exit code.
    """
    die_with_parent()
    parser = argparse.ArgumentParser(prog=module, description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=0, help="start so many, instead of working oneself")
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1, help="machines; the rest is of use with several")
    parser.add_argument("--meeting", default="", help="rendezvous id")
    parser.add_argument("--endpoint", default="", help="HOST:PORT of the lead")
    parser.add_argument("--address", default="", help="of this machine")
    parser.add_argument("--join-timeout", type=int, default=0)
    parser.add_argument("--lead", action="store_true")
    arguments = parser.parse_args()
    job = read_job(arguments.job)
    if arguments.processes == 0:
        return _work(job, run)
    meeting = Meeting(
        arguments.nodes,
        arguments.meeting,
        arguments.endpoint,
        arguments.lead,
        arguments.address,
        arguments.join_timeout,
    )
    command = [module, "--job", str(arguments.job)]
    code = start(
        command,
        arguments.processes,
        arguments.max_restarts,
        meeting if arguments.nodes > 1 else None,
        resumable=job.record.stage in RESUMABLE,
    )
    return _judge(code, job)


def _judge(code: int, job: Job) -> int:
    """What the ledger says of a stage whose processes ended: they end with 0 also when they were stopped."""
    if _is_complete(job):
        return 0
    return code or (FAILED_ELSEWHERE if _failure(job) else STOPPED)


def _is_complete(job: Job) -> bool:
    """Whether the stage is done: its directory was moved in place, or says so itself.

    A directory that does not show is no proof: a network file system may show it late, and an older result
    of the same key be where it will be moved to. Listing its parent makes it look afresh.
    """
    for directory in (job.place.working, job.place.final):
        with contextlib.suppress(OSError):
            os.listdir(directory.parent)  # noqa: PTH208 (for its effect)
        if directory.is_dir():
            with contextlib.suppress(InputError):
                record = read_record(directory)
                return record is not None and record.state == "complete" and record.key == job.record.key
            return False
    return False


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
        stop_requested=stop,
        peer_failure=lambda: _failure(job),
        is_over=lambda: _is_complete(job),
    )
    try:
        if world.is_main:
            write_record(job.place.working, job.record)  # it says failed where torchrun starts us once more
        with progress:
            manifest = run(config, context, stage)
        if world.is_main:
            commit(job.place, job.record, manifest, job.root)
    except Interrupted:
        # For torchrun's agent another code than 0 would be a failure, after which it starts all again.
        return 0 if UNDER_AGENT in os.environ else STOPPED
    except Overtaken:
        return 0
    except PeerFailed as failed:
        print(f"triptych: {stage}: another process of this stage failed: {failed}", file=sys.stderr)
        return FAILED_ELSEWHERE
    except Exception as error:  # noqa: BLE001 (the border of the process: everything becomes an exit code)
        return _report(error, job, world)
    return 0


def _failure(job: Job) -> str | None:
    """What any process of the stage recorded when it failed."""
    record = read_record(job.place.working)
    return record.error if record and record.state == "failed" else None


def _report(error: Exception, job: Job, world: World) -> int:
    """Print what went wrong and record it, unless another process just did; the exit code."""
    refused = as_input_error(error)
    code = 2 if refused else 1
    if is_lost_contact(error):
        error = Failed("lost contact with another process of this stage, which died or could not be reached")
        code = FAILED_ELSEWHERE
    said = str(refused) if refused else f"{type(error).__name__}: {error}"
    time.sleep(TURN_S * min(world.rank, LAST_TURN))  # by then the cause is recorded
    if (code == FAILED_ELSEWHERE and _failure(job)) or not _is_first_to_say(said):
        return code
    if not _is_complete(job):  # what the first process has finished stays so
        with contextlib.suppress(OSError):  # on a full disk there is no room for the record either
            fail(job.place, job.record, said)
    if refused or isinstance(error, Failed):
        print(f"triptych: {job.record.stage}: {refused or error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return code


def _is_first_to_say(said: str) -> bool:
    """Whether no other process has said the same since the agent of this machine last started all of them."""
    beside = os.environ.get(STOP_FILE)
    if beside is None:
        return True
    words = hashlib.sha256(said.encode()).hexdigest()[:16]
    try:
        Path(f"{beside}.{os.environ.get(RESTARTS, '0')}.{words}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full disk
        return True
    return True


def _stop_on_request(progress: Progress, *, resumable: bool) -> Callable[[], bool]:
    """Let a signal ask a resumable stage to save and stop, and end any other at once.

    Returns:
        Whether it was asked: by a signal, or by the agent that started it.
    """
    requested = threading.Event()
    file = os.environ.get(STOP_FILE)

    def handle(number: int, frame: FrameType | None) -> None:
        if not resumable:
            progress.finish()
            os._exit(STOPPED)  # nothing to save, and no pool of processes to wait for
        requested.set()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    return lambda: requested.is_set() or (file is not None and os.path.exists(file))  # noqa: PTH110 (each step)


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


if __name__ == "__main__":
    sys.exit(main())
