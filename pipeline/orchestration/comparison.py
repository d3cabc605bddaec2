"""Several systems on the same data with the same seeds: a run of each, through the supervisor."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean

from pipeline.analysis.comparison import TRAIN_RATE, TRAIN_SECONDS, Entry
from pipeline.config import Config, load_config
from pipeline.config.files import read_tree
from pipeline.errors import InputError, Interrupted, command_name
from pipeline.orchestration import supervisor
from pipeline.orchestration.compared import comparison_directory, write_members
from pipeline.orchestration.ledger import METRICS, TIMING, read_record
from pipeline.orchestration.lock import hold
from pipeline.orchestration.origin import Origin, refuse_other_config, write_origin
from pipeline.orchestration.plan import Selection, Step, plan
from pipeline.orchestration.processes import Interruption
from pipeline.orchestration.stage import StageName

SELECTION = Selection(last="evaluate")
SUFFIXES = (".yaml", ".yml")
LONGEST_REASON = 120
START_S = 10.0
"""What starting the stages of a run takes, beside what they time themselves."""


@dataclass(frozen=True)
class Request:
    """What a person typed.

    Attributes:
        config: The file that all systems share.
        overrides: Texts `a.b=VALUE`, applied after a system's own values.
        systems: Names of presets, or paths of YAML overlays.
        seeds: How many, from the config's own on.
        presets: Where presets lie, one YAML overlay each.
        root: Where runs and datasets lie.
        given_root: As typed; None for the default.
    """

    config: Path
    overrides: tuple[str, ...]
    systems: tuple[str, ...]
    seeds: int
    presets: Path
    root: Path
    given_root: str | None = None

    def command(self) -> str:
        """What to type to continue."""
        words = ["compare", str(self.config), "--systems", ",".join(self.systems), "--seeds", str(self.seeds)]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--root", self.given_root] if self.given_root else []
        return f"{command_name()} {shlex.join(words)}"


@dataclass(frozen=True)
class Member:
    """One run of a comparison."""

    system: str
    seed: int
    config: Config

    def directory(self, root: Path) -> Path:
        """Of the run."""
        return root / self.config.name

    def origin(self, request: Request) -> Origin:
        """The config as the supervisor writes it beside the results: it alone says all of the run."""
        path = self.directory(request.root) / "config.yaml"
        return Origin(str(path.resolve()), (), request.given_root, str(path))


def comparison_name(request: Request) -> str:
    """The base of all names.

    Raises:
        InputError: If the config names no run.
    """
    name = read_tree(request.config, request.overrides).values.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{request.config}: name: missing, and runs are named after it; add --set name=NAME")
    return name


def members(request: Request) -> list[Member]:
    """Every run, all systems with the first seed before the next one, so that early results compare.

    Raises:
        InputError: If a system is unknown or named twice, with every mistake of every combination, or if
            systems would not see the same data, budget and measurement.
    """
    overlays = _overlays(request)
    name = comparison_name(request)
    configs: dict[str, Config] = {}
    mistakes: list[str] = []
    for system, overlay in overlays.items():
        try:
            configs[system] = load_config(
                request.config, (*request.overrides, f"name={json.dumps(name)}"), (overlay,)
            )
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise InputError("\n".join(mistakes))
    _refuse_unlike(configs, overlays)
    first = next(iter(configs.values())).seed
    return [
        Member(
            system, seed, config.model_copy(update={"name": f"{config.name}-{system}-s{seed}", "seed": seed})
        )
        for seed in range(first, first + request.seeds)
        for system, config in configs.items()
    ]


def check(request: Request, runs: Sequence[Member]) -> dict[str, list[Step]]:
    """What each run would do, before anything is written.

    Raises:
        InputError: If a directory belongs to another config, holds something else, or the data is not there.
    """
    steps = {member.config.name: plan(member.config, request.root, SELECTION) for member in runs}
    for member in runs:
        refuse_other_config(member.directory(request.root), member.origin(request), steps[member.config.name])
    if (directory_of(request) / "config.yaml").exists():
        raise InputError(
            f"{directory_of(request)}: holds a run, and the comparison would be written there; give one of "
            "them another name with --set name=NAME"
        )
    everything = [step for some in steps.values() for step in some]
    refuse_other_config(directory_of(request), origin_of(request), everything)
    return steps


def directory_of(request: Request) -> Path:
    """Where the comparison's own results lie."""
    return comparison_directory(request.root, comparison_name(request))


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


def plan_rows(runs: Sequence[Member], steps: dict[str, list[Step]]) -> Iterator[tuple[str, ...]]:
    """A line per run: what each of its stages would do."""
    yield ("run", "shard", "train", "evaluate")
    for member in runs:
        verbs = {step.stage: step.verb for step in steps[member.config.name]}
        yield (member.config.name, verbs["shard"], verbs["train"], verbs["evaluate"])


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


def _overlays(request: Request) -> dict[str, Path]:
    """Name to overlay.

    Raises:
        InputError: If one is unknown, named twice, or there is none.
    """
    known = sorted(path.stem for path in request.presets.glob("*.yaml"))
    found: dict[str, Path] = {}
    for word in request.systems:
        path = Path(word) if word.endswith(SUFFIXES) else request.presets / f"{word}.yaml"
        name = path.stem
        if not word.endswith(SUFFIXES) and word not in known:
            near = get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"--systems {word}: no such system; {hint}There are {', '.join(known)}, and any YAML file "
                "with the values that make a system (name.yaml)"
            )
        if name in found:
            raise InputError(f"--systems {','.join(request.systems)}: {name} is named twice; keep one")
        if not all(character.isalnum() or character in "_.-" for character in name):
            raise InputError(f"--systems {word}: runs are named after it, so use letters, digits, _ . - only")
        found[name] = path
    if not found:
        raise InputError(f"--systems: name at least one of {', '.join(known)}, separated by commas")
    return found


def _refuse_unlike(configs: dict[str, Config], overlays: dict[str, Path]) -> None:
    """A comparison is of systems, so nothing else may differ.

    Raises:
        InputError: If a system changes the data, the budget, the seed or what is measured.
    """
    first, reference = next(iter(configs.items()))
    for system, config in configs.items():
        same = {
            "data": config.data == reference.data,
            "train.samples": config.train.samples == reference.train.samples,
            "train.batch": config.train.batch == reference.train.batch,
            "seed": config.seed == reference.seed,
            "evaluate": config.evaluate == reference.evaluate,
        }
        if changed := [name for name, alike in same.items() if not alike]:
            raise InputError(
                f"{overlays[system]}: {changed[0]} differs from that of {first}, and systems are compared on "
                f"the same data, budget, seeds and measurement; remove {changed[0]} from the system's file, "
                f"or set it for all with --set"
            )


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


def origin_of(request: Request) -> Origin:
    """What a person types after other commands to mean the comparison's config."""
    return Origin(str(request.config.resolve()), request.overrides, request.given_root, str(request.config))


def _say(line: str) -> None:
    print(f"triptych: {line}", file=sys.stderr, flush=True)
