"""Runs the plan, one stage at a time, each in processes of its own; imports neither torch nor a stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pipeline.config import Config, resolved_yaml
from pipeline.durable import remove_abandoned, write_text
from pipeline.errors import InputError, Interrupted, command_name
from pipeline.orchestration.execution import (
    UPLOAD_TIMEOUT_S,
    Crew,
    Launch,
    StageFailed,
    ending,
    work,
)
from pipeline.orchestration.job import Job
from pipeline.orchestration.ledger import Record, adopt_dataset, begin, read_attempt, settle
from pipeline.orchestration.lock import hold
from pipeline.orchestration.nodes_lead import Lead, MachineMissing
from pipeline.orchestration.nodes_text import missing_text
from pipeline.orchestration.origin import Origin, refuse_other_config, write_origin
from pipeline.orchestration.plan import FORCED, INPUT_NAMES, NEEDS, Selection, Step, plan
from pipeline.orchestration.processes import BAD_INPUT, STOPPED, Interruption, say, threads_per_process
from pipeline.orchestration.stage import STAGES, StageName
from pipeline.orchestration.tracking import Mirror, NoMirror, start_mirror

__all__ = ["DISTRIBUTED", "UPLOAD_TIMEOUT_S", "Launch", "Outcome", "StageFailed", "run"]

DISTRIBUTED: tuple[StageName, ...] = STAGES
"""Stages that several processes share."""

LAST_WORD_S = 10.0
"""How long a run that did not go well waits at its end for the tracking server."""


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
        StageFailed: If a stage failed; it has printed why. If a machine is missing.
    """
    directory = root / config.name
    with (
        Interruption() as interruption,
        hold(directory / "lock.json", wait=launch.wait, stop_requested=lambda: interruption.requested),
        _leading(config, directory, launch, interruption) as lead,
    ):
        steps = plan(config, root, selection)
        refuse_other_config(directory, origin, steps)
        _refuse_blocked(steps, origin)
        write_text(directory / "config.yaml", resolved_yaml(config))
        remove_abandoned(directory, directory / "config.yaml")
        write_origin(directory, origin)
        missing = partial(missing_text, config, origin, selection, launch, directory)
        crew = Crew(launch, interruption, lead, missing)
        if lead:
            _gather(lead, crew)
        mirror = start_mirror(directory, config)
        try:
            done = list(_stages(config, root, selection, crew, mirror))
        except BaseException:
            mirror.close(LAST_WORD_S)
            raise
        return Outcome(done, mirror.close(launch.upload_timeout_s))


def _stages(
    config: Config,
    root: Path,
    selection: Selection,
    crew: Crew,
    mirror: Mirror | NoMirror,
) -> Iterator[Step]:
    force = set(selection.force)
    for number, stage in enumerate(STAGES, start=1):
        if stage not in selection:
            continue
        if crew.interruption.requested:
            raise Interrupted
        with _dataset_lock(stage, config, root, crew.interruption):
            steps = plan(config, root, replace(selection, force=force))
            step = steps[number - 1]
            say(f"[{number}/{len(STAGES)}] {stage}: {step.verb} ({step.reason})")
            if step.verb != "skip":
                _execute(step, steps, config, root, crew, mirror)
            if stage == "shard":
                _adopt(config, root)
        force.discard(stage)
        yield step


def _execute(
    step: Step,
    steps: list[Step],
    config: Config,
    root: Path,
    crew: Crew,
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
    processes, threads = _execution(stage, crew.launch, attempt if step.verb == "continue" else None)
    record = replace(step.wanted, execution={"processes": processes, "threads": threads})
    record = begin(place, record, anew=step.verb == "run")
    inputs = {
        INPUT_NAMES[other.stage]: other.place.final
        for other in steps
        if other.stage in NEEDS[stage] and other.place is not None
    }
    directory = root / config.name
    job = Job(config.model_dump(mode="json"), root, place, record, inputs, directory / ".progress.json")
    mirror.stage_started(stage)
    started_s = time.monotonic()
    try:
        code = work(job, directory, crew, distributed=stage in DISTRIBUTED)
    except BaseException as error:
        mirror.stage_finished(stage, "KILLED" if isinstance(error, Interrupted) else "FAILED")
        raise
    stopped = code == STOPPED or (code != 0 and crew.interruption.requested)
    mirror.stage_finished(stage, "FINISHED" if code == 0 else "KILLED" if stopped else "FAILED")
    if stopped:
        raise Interrupted
    if code != 0:
        raise _failure(stage, code, crew.lead)
    say(f"{stage}: done in {_duration(time.monotonic() - started_s)}")


def _execution(stage: StageName, launch: Launch, attempt: Record | None) -> tuple[int, int]:
    """Processes and threads of each; a continued stage keeps its threads, since results depend on them."""
    processes = launch.world if stage in DISTRIBUTED else 1
    if attempt and attempt.execution.get("processes") == processes:
        return processes, attempt.execution["threads"]
    return processes, threads_per_process(launch.processes if stage in DISTRIBUTED else 1)


def _failure(stage: StageName, code: int, lead: Lead | None) -> StageFailed:
    """What a worker's exit code says."""
    if lead and (name := lead.failed_member()):
        say(f"{stage} failed on {name}; what it says there tells more")
    if code == BAD_INPUT:
        return StageFailed("", code)
    above = "; what it says is above" if code in range(128) else ""
    return StageFailed(f"{stage} {ending(code)}{above}", 1)


def _leading(
    config: Config, directory: Path, launch: Launch, interruption: Interruption
) -> "Lead | nullcontext[None]":
    """What tells other machines how the run goes, if there are any."""
    if launch.nodes is None:
        return nullcontext()
    return Lead(launch.nodes, directory, config, launch.processes, interruption)


def _gather(lead: Lead, crew: Crew) -> None:
    try:
        lead.gather()
    except MachineMissing as missing:
        raise StageFailed(crew.missing(missing), 1) from None


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
