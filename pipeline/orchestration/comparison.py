"""Several systems on the same data with the same seeds: a run of each, through the supervisor."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from pipeline.analysis.comparison import TRAIN_RATE, TRAIN_SECONDS, Entry
from pipeline.errors import InputError, Interrupted
from pipeline.orchestration import supervisor
from pipeline.orchestration.compared import write_members
from pipeline.orchestration.comparison_members import SELECTION, Member, Request, directory_of, origin_of
from pipeline.orchestration.ledger import METRICS, TIMING, read_record
from pipeline.orchestration.lock import hold
from pipeline.orchestration.origin import write_origin
from pipeline.orchestration.plan import plan
from pipeline.orchestration.processes import Interruption
from pipeline.orchestration.stage import StageName

LONGEST_REASON = 120
START_S = 10.0
"""What starting the stages of a run takes, beside what they time themselves."""


def bring_up_to_date(
    request: Request,
    runs: Sequence[Member],
    launch: supervisor.Launch,
    finish: Callable[[Path, list[Entry]], None],
) -> int:
    """Run what is missing, then let `finish` write what it all says.

    A run whose training or evaluation fails is a result, too: the others go on.

    Args:
        request: What was asked.
        runs: From `members`.
        launch: How stages are started.
        finish: Given the comparison's directory and all runs' numbers.

    Returns:
        0, or the exit code of the first run that failed.

    Raises:
        Interrupted: If asked to stop; what was done is saved.
        StageFailed: If there is no dataset.
    """
    directory = directory_of(request)
    with (
        Interruption() as interruption,
        hold(directory / "lock.json", stop_requested=lambda: interruption.requested),
    ):
        write_origin(directory, origin_of(request))
        write_members(directory, [member.config.name for member in runs], request.command())
        left = [member for member in runs if not is_done(member, request.root)]
        codes = []
        for number, member in enumerate(runs, start=1):
            if interruption.requested:
                raise Interrupted
            head = f"compare [{number}/{len(runs)}] {member.config.name}"
            if member not in left:
                _say(f"{head}: complete")
                continue
            _say(f"{head}{_time_left(runs, left, request.root)}")
            codes.append(_run(member, request, launch))
            left.remove(member)
        if interruption.requested:
            raise Interrupted
        finish(directory, [entry_of(member, request.root) for member in runs])
        return next((code for code in codes if code), 0)


def is_done(member: Member, root: Path) -> bool:
    """Whether the run has everything that is compared."""
    steps = {step.stage: step for step in plan(member.config, root, SELECTION)}
    stages: tuple[StageName, ...] = ("shard", "train", "evaluate")
    return all(steps[stage].is_done for stage in stages) and (member.directory(root) / "shard").is_dir()


def entry_of(member: Member, root: Path) -> Entry:
    """What a run measured; failed if it has no result."""
    directory, name = member.directory(root), member.config.name
    if not is_done(member, root):
        return Entry(member.system, member.seed, name, member.config, {}, _failure(directory))
    metrics = _numbers(directory / "evaluate" / METRICS)
    rate = _numbers(directory / "train" / TIMING).get("samples_per_s", 0.0)
    if rate > 0.0:  # of the last attempt; one that found nothing left to do timed nothing
        metrics |= {TRAIN_RATE: rate, TRAIN_SECONDS: member.config.train.samples / rate}
    return Entry(member.system, member.seed, name, member.config, metrics)


def _run(member: Member, request: Request, launch: supervisor.Launch) -> int:
    patient = replace(launch, wait=True, upload_timeout_s=0.0)  # uploads go on while the next one trains
    try:
        supervisor.run(member.config, member.origin(request), request.root, SELECTION, patient)
    except supervisor.StageFailed as failure:
        if str(failure):
            _say(str(failure))
        if not plan(member.config, request.root, SELECTION)[0].is_done:
            raise
        _say(f"{member.config.name} has no result; the others go on")
        return failure.exit_code
    return 0


def _time_left(runs: Sequence[Member], left: Sequence[Member], root: Path) -> str:
    """Judged by runs that are done: of the same system where there is one."""
    known: dict[str, list[float]] = {}
    for member in runs:
        if member not in left and (seconds := _seconds(member.directory(root))):
            known.setdefault(member.system, []).append(seconds)
    if not known:
        return ""
    typical = {system: fmean(parts) for system, parts in known.items()}
    anything = fmean(typical.values())
    minutes_left = round(sum(typical.get(member.system, anything) for member in left) / 60)
    hours, minutes = divmod(max(1, minutes_left), 60)
    return f": about {f'{hours} h {minutes:02d} min' if hours else f'{minutes} min'} left"


def _seconds(run: Path) -> float:
    """What a finished run took to train and evaluate; 0 if it is not finished."""
    training, evaluation = (_numbers(run / stage / TIMING) for stage in ("train", "evaluate"))
    if not evaluation:
        return 0.0
    return training.get("train_s", 0.0) + evaluation.get("evaluate_s", 0.0) + START_S


def _failure(directory: Path) -> str:
    for stage in ("train", "evaluate"):
        for place in (directory / f".{stage}.partial", directory / stage):
            try:
                record = read_record(place)
            except InputError:
                continue
            if record and record.state == "failed" and record.error:
                reason = " ".join(record.error.split())
                return f"{stage} failed: {reason if len(reason) <= LONGEST_REASON else reason[:117] + '...'}"
    return "it did not finish"


def _numbers(path: Path) -> dict[str, float]:
    try:
        values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values


def _say(line: str) -> None:
    print(f"triptych: {line}", file=sys.stderr, flush=True)
