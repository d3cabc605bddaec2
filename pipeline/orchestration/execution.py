"""One stage until it is done or cannot be: its processes, started again where that helps."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.orchestration.job import Job, write_job
from pipeline.orchestration.ledger import begin, fail
from pipeline.orchestration.nodes import Nodes
from pipeline.orchestration.nodes_lead import Lead, MachineMissing
from pipeline.orchestration.processes import (
    BAD_INPUT,
    FAILED_ELSEWHERE,
    STOPPED,
    Interruption,
    say,
    worker_command,
    worker_environment,
)

UPLOAD_TIMEOUT_S = 60.0
"""How long a run that went well waits at its end for the tracking server."""


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
        processes: Of a distributed stage, on each machine.
        max_restarts: How often a stage is started again after a process died.
        wait: Wait for a live run of the same name instead of refusing.
        upload_timeout_s: How long a run that went well waits at its end for the tracking server; what it
            was sending goes on behind its back.
        nodes: The machines, if there are several.
    """

    worker: str
    processes: int = 1
    max_restarts: int = 0
    wait: bool = False
    upload_timeout_s: float = UPLOAD_TIMEOUT_S
    nodes: Nodes | None = None

    @property
    def world(self) -> int:
        """Processes of a distributed stage, on all machines."""
        return self.processes * (self.nodes.count if self.nodes else 1)


@dataclass(frozen=True)
class Crew:
    """Who works on a stage.

    Attributes:
        launch: How processes are started.
        interruption: Whether they were asked to stop.
        lead: What brings the other machines in; None for a stage or a run that needs none.
        missing: What to say when a machine does not come.
    """

    launch: Launch
    interruption: Interruption
    lead: Lead | None
    missing: Callable[[MachineMissing], str]


def work(job: Job, run_directory: Path, crew: Crew, *, distributed: bool) -> int:
    """Start a stage's processes, and again after a machine came back or, as MAX_RESTARTS allows, one died.

    Args:
        job: What to do.
        run_directory: `<root>/<name>`, where its file is written.
        crew: Who does it.
        distributed: Whether all processes of all machines share it.

    Returns:
        An exit code: 0 when it is done, 75 when it was stopped.

    Raises:
        StageFailed: If another machine did not come back.
        Interrupted: If stopped while waiting for another machine.
    """
    file, restarts = run_directory / ".job.json", 0
    try:
        while True:
            write_job(file, job)
            try:
                code = _attempt(job, file, crew, distributed=distributed)
            except MachineMissing as missing:
                fail(job.place, job.record, f"{', '.join(missing.names)} missing")
                raise StageFailed(crew.missing(missing), 1) from None
            if code in (0, STOPPED, BAD_INPUT) or crew.interruption.requested:
                return code
            if crew.lead and distributed and (name := crew.lead.lost_member()):
                say(f"{job.record.stage}: {name} is lost; what is saved is intact")
            elif _is_consequence(code) and crew.lead and distributed and (failed := crew.lead.failed_code()):
                return failed
            elif code < 0 and restarts < crew.launch.max_restarts:
                restarts += 1
                again = f"started again ({restarts} of {crew.launch.max_restarts})"
                say(f"{job.record.stage} {ending(code)}; {again}")
            else:
                return code
            job = replace(job, record=begin(job.place, job.record))
    finally:
        file.unlink(missing_ok=True)
        job.progress_file.unlink(missing_ok=True)


def _is_consequence(code: int) -> bool:
    """Whether processes may have ended so only because those of another machine failed."""
    return code < 0 or code == FAILED_ELSEWHERE


def ending(code: int) -> str:
    """What an exit code says of how processes ended, for the middle of a sentence."""
    if code == FAILED_ELSEWHERE:
        return "ended because another of its processes did"
    number = -code if code < 0 else code - 128
    if number in {member.value for member in signal.Signals}:
        hint = "; often the system's memory was full" if number == signal.SIGKILL else ""
        return f"was ended by {signal.Signals(number).name}{hint}"
    return f"failed with exit code {code}"


def _attempt(job: Job, file: Path, crew: Crew, *, distributed: bool) -> int:
    launch, threads = crew.launch, job.record.execution["threads"]
    if not distributed:
        watch = crew.lead.watch if crew.lead else None
        return crew.interruption.run(
            worker_command(launch.worker, file, 1, 0), worker_environment(threads), watch
        )
    if crew.lead is None:
        command = worker_command(launch.worker, file, launch.processes, launch.max_restarts)
        return crew.interruption.run(command, worker_environment(threads))
    nodes, record = crew.lead.nodes, job.record
    members = crew.lead.assemble(nodes.return_timeout_s)
    with crew.lead.calling(record.stage, record.attempts, threads, launch.max_restarts, members) as meeting:
        command = worker_command(launch.worker, file, launch.processes, launch.max_restarts, meeting)
        return crew.interruption.run(command, worker_environment(threads, meeting.address), crew.lead.watch)
