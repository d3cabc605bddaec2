"""Runs the plan, one stage at a time, each in processes of its own; imports neither torch nor a stage."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config import Config, resolved_yaml
from pipeline.durable import write_text
from pipeline.errors import InputError, Interrupted, command_name
from pipeline.orchestration.job import Job, write_job
from pipeline.orchestration.ledger import Record, adopt_dataset, begin, read_attempt, settle
from pipeline.orchestration.lock import hold
from pipeline.orchestration.origin import Origin, refuse_other_config, write_origin
from pipeline.orchestration.plan import FORCED, INPUT_NAMES, NEEDS, Selection, Step, plan
from pipeline.orchestration.processes import (
    Interruption,
    threads_per_process,
    worker_command,
    worker_environment,
)
from pipeline.orchestration.stage import STAGES, StageName
from pipeline.orchestration.tracking import Mirror, NoMirror, start_mirror

DISTRIBUTED: tuple[StageName, ...] = ("shard", "train")
"""Stages that several processes share."""

UPLOAD_TIMEOUT_S = 60.0
LAST_WORD_S = 10.0
"""How long a run waits at its end for the tracking server: when all went well, and when it did not."""

BAD_INPUT = 2
STOPPED = 75


class StageFailed(Exception):  # noqa: N818 (said as a fact)
    """A stage ended with a failure that it has already printed.

    Attributes:
        exit_code: What the whole command should exit with.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launch:
    """How stages are started.

    Attributes:
        worker: Module that does one job in a process.
        processes: Of a distributed stage.
        max_restarts: How often a distributed stage is started again after a process died.
        wait: Wait for a live run of the same name instead of refusing.
        upload_timeout_s: How long a run that went well waits at its end for the tracking server; what it
            was sending goes on behind its back.
    """

    worker: str
    processes: int = 1
    max_restarts: int = 0
    wait: bool = False
    upload_timeout_s: float = UPLOAD_TIMEOUT_S


@dataclass(frozen=True)
class Outcome:
    """What a run did: the steps as they were decided, and what the tracker says at the end."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(config: Config, origin: Origin, root: Path, selection: Selection, launch: Launch) -> Outcome:
    """Bring every selected stage up to date.

    Raises:
        InputError: If a stage is blocked, the directory is in use or belongs to another config.
        Interrupted: If asked to stop; what was done is saved.
        StageFailed: If a stage failed; it has printed why.
    """
    directory = root / config.name
    with (
        Interruption() as interruption,
        hold(directory / "lock.json", wait=launch.wait, stop_requested=lambda: interruption.requested),
    ):
        steps = plan(config, root, selection)
        refuse_other_config(directory, origin, steps)
        _refuse_blocked(steps, origin)
        write_text(directory / "config.yaml", resolved_yaml(config))
        write_origin(directory, origin)
        mirror = start_mirror(directory, config)
        try:
            done = list(_stages(config, root, selection, launch, interruption, mirror))
        except BaseException:
            mirror.close(LAST_WORD_S)
            raise
        return Outcome(done, mirror.close(launch.upload_timeout_s))


def _stages(
    config: Config,
    root: Path,
    selection: Selection,
    launch: Launch,
    interruption: Interruption,
    mirror: Mirror | NoMirror,
) -> Iterator[Step]:
    force = set(selection.force)
    for number, stage in enumerate(STAGES, start=1):
        if stage not in selection:
            continue
        if interruption.requested:
            raise Interrupted
        with _dataset_lock(stage, config, root, interruption):
            steps = plan(config, root, replace(selection, force=force))
            step = steps[number - 1]
            _say(f"[{number}/{len(STAGES)}] {stage}: {step.verb} ({step.reason})")
            if step.verb != "skip":
                _execute(step, steps, config, root, launch, interruption, mirror)
            if stage == "shard":
                _adopt(config, root)
        force.discard(stage)
        yield step


def _execute(
    step: Step,
    steps: list[Step],
    config: Config,
    root: Path,
    launch: Launch,
    interruption: Interruption,
    mirror: Mirror | NoMirror,
) -> None:
    stage, place = step.stage, step.place
    assert place is not None
    assert step.wanted is not None
    attempt = read_attempt(place) if step.verb == "continue" or place.working != place.final else None
    if attempt and attempt.state == "complete" and attempt.key == step.wanted.key and step.reason != FORCED:
        if place.working != place.final:
            settle(place)
            return
    processes, threads = _execution(stage, launch, attempt)
    record = replace(step.wanted, execution={"processes": processes, "threads": threads})
    record = begin(place, record, anew=step.verb == "run")
    files = [root / config.name / name for name in (".job.json", ".progress.json")]
    inputs = {
        INPUT_NAMES[other.stage]: other.place.final
        for other in steps
        if other.stage in NEEDS[stage] and other.place is not None
    }
    write_job(files[0], Job(config.model_dump(mode="json"), root, place, record, inputs, files[1]))
    mirror.stage_started(stage)
    started_s = time.monotonic()
    command = worker_command(launch.worker, files[0], processes, launch.max_restarts)
    code = interruption.run(command, worker_environment(threads))
    for file in files:
        file.unlink(missing_ok=True)
    stopped = code == STOPPED or (code != 0 and interruption.requested)
    mirror.stage_finished(stage, "FINISHED" if code == 0 else "KILLED" if stopped else "FAILED")
    if stopped:
        raise Interrupted
    if code != 0:
        raise _failure(stage, code)
    _say(f"{stage}: done in {_duration(time.monotonic() - started_s)}")


def _execution(stage: StageName, launch: Launch, attempt: Record | None) -> tuple[int, int]:
    """Processes and threads of each; a continued stage keeps its threads, since results depend on them."""
    processes = launch.processes if stage in DISTRIBUTED else 1
    if attempt and attempt.execution.get("processes") == processes:
        return processes, attempt.execution["threads"]
    return processes, threads_per_process(processes)


def _failure(stage: StageName, code: int) -> StageFailed:
    """What a worker's exit code says."""
    if code == BAD_INPUT:
        return StageFailed("", code)
    number = -code if code < 0 else code - 128
    if number in {member.value for member in signal.Signals}:
        hint = "; often the system's memory was full" if number == signal.SIGKILL else ""
        return StageFailed(f"{stage} was ended by {signal.Signals(number).name}{hint}", 1)
    return StageFailed(f"{stage} failed with exit code {code}; what it says is above", 1)


def _adopt(config: Config, root: Path) -> None:
    place = plan(config, root)[0].place
    assert place is not None
    adopt_dataset(place, root)


@contextmanager
def _dataset_lock(stage: StageName, config: Config, root: Path, interruption: Interruption) -> Iterator[None]:
    """Datasets are shared between runs, so one of them makes one and the others wait for it."""
    place = plan(config, root)[0].place if stage == "shard" else None
    if place is None:
        yield
        return
    lock = place.final.with_name(f".{place.final.name}.lock")
    with hold(lock, wait=True, thing=str(place.final), stop_requested=lambda: interruption.requested):
        yield


def _refuse_blocked(steps: list[Step], origin: Origin) -> None:
    if blocked := [step for step in steps if step.verb == "blocked"]:
        reasons = "\n".join(f"  {step.stage}: {step.reason}" for step in blocked)
        raise InputError(
            f"cannot run\n{reasons}\n`{command_name()} run {origin.arguments()}` does what is missing first"
        )


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min" if seconds >= 60 else f"{seconds:.0f} s"


def _say(line: str) -> None:
    print(f"triptych: {line}", file=sys.stderr, flush=True)
