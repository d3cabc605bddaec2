"""What each command of `triptych` does; imports nothing heavy before it is needed."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from pipeline.config import Config, load_config, resolved_yaml
from pipeline.errors import InputError, command_name
from pipeline.orchestration import report
from pipeline.orchestration.ledger import RECORD, read_record
from pipeline.orchestration.origin import Origin
from pipeline.orchestration.plan import Selection
from pipeline.orchestration.plan import plan as decide
from pipeline.orchestration.stage import STAGES, StageName
from stages import machines

DEFAULT_ROOT = "runs"

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "systems"
"""An overlay per system."""


def run(arguments: argparse.Namespace) -> int:
    """`run CONFIG`: bring every selected stage up to date."""
    return _run(arguments, _selection(arguments.first, arguments.last, arguments.force))


def multinode(arguments: argparse.Namespace) -> int:
    """`multinode CONFIG`: the same together with other machines that were given the same command."""
    return run(arguments)


def demo(arguments: argparse.Namespace) -> int:
    """`demo`: the same for the config that needs no data."""
    return run(arguments)


def stage(arguments: argparse.Namespace) -> int:
    """`shard CONFIG` and the others: one stage alone."""
    return _run(arguments, _selection(arguments.command, arguments.command, arguments.force))


def plan(arguments: argparse.Namespace) -> int:
    """`plan CONFIG`: what would run and why."""
    config = load_config(arguments.config, arguments.overrides)
    selection = _selection(arguments.first, arguments.last, arguments.force)
    print(report.plan_text(decide(config, _root(arguments), selection)))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """`status CONFIG`: how far it is and what to type next."""
    from pipeline.orchestration.status import status as ask
    from pipeline.orchestration.tracking import reconcile

    config = load_config(arguments.config, arguments.overrides)
    root = _root(arguments)
    said = ask(config, root, _origin(arguments))
    print(json.dumps(said, indent=1) if arguments.json else report.status_text(said), flush=True)
    if not said["holder"] and (said["tracking"] or {}).get("answers") is not False:
        reconcile(root / config.name, config)
    return 0


def clean(arguments: argparse.Namespace) -> int:
    """`clean CONFIG`: remove superseded results."""
    from pipeline.orchestration import clean as cleaning

    name = load_config(arguments.config, arguments.overrides).name
    root = _root(arguments)
    removed = cleaning.leftovers(root, name) if arguments.dry_run else cleaning.clean(root, name)
    if removed:
        rows = [(str(leftover.path), _megabytes(leftover.size), leftover.reason) for leftover in removed]
        print(
            report.table([("would be removed" if arguments.dry_run else "removed", "size", "because"), *rows])
        )
    else:
        print("nothing to remove")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """`inspect DATASET`: what it holds."""
    from stages import inspect as inspection

    return inspection.run(
        _dataset(arguments), output=arguments.output, as_json=arguments.json, limit=arguments.limit
    )


def compare(arguments: argparse.Namespace) -> int:
    """`compare CONFIG --systems ...`: systems side by side on the same data."""
    from pipeline.orchestration.comparison_members import Request
    from stages import compare as comparing

    request = Request(
        config=arguments.config,
        overrides=tuple(arguments.overrides),
        systems=tuple(word for word in arguments.systems.split(",") if word),
        seeds=arguments.seeds,
        presets=PRESETS,
        root=_root(arguments),
        given_root=arguments.root,
    )
    if arguments.dry_run:
        return comparing.show_plan(request, as_json=arguments.json)
    runs = comparing.checked(request)
    launch = machines.launch_of(arguments, runs[0].config)
    machines.refuse_several(launch, "compare")
    for member in runs:
        machines.refuse_uneven(member.config, launch)
    return _failing(lambda: comparing.run(request, runs, launch, as_json=arguments.json))


def slurm(arguments: argparse.Namespace) -> int:
    """`slurm CONFIG`: the run as a SLURM job."""
    from stages import cluster

    _selection(arguments.first, arguments.last, ())
    return cluster.slurm(arguments, load_config(arguments.config, arguments.overrides), _root(arguments))


def k8s(arguments: argparse.Namespace) -> int:
    """`k8s CONFIG`: the run as a Kubernetes Job."""
    from stages import cluster

    _selection(arguments.first, arguments.last, ())
    return cluster.k8s(arguments, load_config(arguments.config, arguments.overrides))


def doctor(arguments: argparse.Namespace) -> int:
    """`doctor`: what this machine offers, and what to set."""
    from pipeline.orchestration.doctor import examine

    findings = examine(_root(arguments))
    for finding in findings:
        print(f"  {finding.name + ':':<10} {finding.text}")
    if advice := [finding for finding in findings if finding.advice]:
        print("\nto put right:")
        print("\n".join(f"  {finding.name}: {finding.advice}" for finding in advice))
    return 0


def fields_or_config(arguments: argparse.Namespace) -> int:
    """`config CONFIG`: the resolved config; with --help-fields what every field means.

    Raises:
        InputError: If no config is named and no help asked for.
    """
    if arguments.help_fields:
        from pipeline.config.fields import field_help

        for key, kind, default, text in field_help():
            print(f"{key}: {kind}{f' = {default}' if default else ''}\n    {text}")
    elif arguments.config is None:
        raise InputError("config: name a config file, or ask for --help-fields")
    else:
        print(resolved_yaml(load_config(arguments.config, arguments.overrides)), end="")
    return 0


def ui(arguments: argparse.Namespace) -> int:
    """`ui [CONFIG]`: MLflow on this machine."""
    from pipeline.orchestration.mlflow_ui import serve

    config = load_config(arguments.config, arguments.overrides) if arguments.config else None
    return serve(_root(arguments), config, arguments.port)


def sync(arguments: argparse.Namespace) -> int:
    """`sync CONFIG`: upload what an outage delayed."""
    from pipeline.orchestration.compared import comparison_directory
    from pipeline.orchestration.mirror_comparison import sync_comparison
    from pipeline.orchestration.supervisor import UPLOAD_TIMEOUT_S
    from pipeline.orchestration.tracking import sync as upload

    config, root = load_config(arguments.config, arguments.overrides), _root(arguments)
    comparison = comparison_directory(root, config.name)
    if (root / config.name).is_dir() or not comparison.is_dir():
        print("\n".join(upload(root / config.name, config)))
    if comparison.is_dir():
        print("\n".join(sync_comparison(comparison, UPLOAD_TIMEOUT_S)))
    return 0


def _run(arguments: argparse.Namespace, selection: Selection) -> int:
    config = load_config(arguments.config, arguments.overrides)
    root = _root(arguments)
    if arguments.dry_run:
        print(report.plan_text(decide(config, root, selection)))
        launch = machines.launch_of(arguments, config)
        if launch.nodes:
            print(f"\n{machines.dry_run(config, _origin(arguments), selection, launch, root)}")
        return 0
    from pipeline.orchestration import supervisor

    launch = machines.launch_of(arguments, config)
    nodes = launch.nodes
    if nodes and not nodes.is_lead:
        return _failing(lambda: machines.follow(config, root, launch, nodes))

    def bring_up_to_date() -> int:
        outcome = supervisor.run(config, _origin(arguments), root, selection, launch)
        _show_outcome(config, root, outcome.notes)
        return 0

    return _failing(bring_up_to_date)


def _failing(call: Callable[[], int]) -> int:
    """Call, and turn a stage's failure, which it has printed, into an exit code."""
    from pipeline.orchestration.supervisor import StageFailed

    try:
        return call()
    except StageFailed as failure:
        if str(failure):
            print(f"triptych: {failure}", file=sys.stderr)
        return failure.exit_code


def _dataset(arguments: argparse.Namespace) -> Path:
    """The dataset directory that is named, directly or as that of a config or of a run's `shard`.

    Raises:
        InputError: If there is none.
    """
    named: Path = arguments.dataset
    if named.is_dir():
        record = read_record(named) if (named / RECORD).is_file() else None
        dataset = record.outputs.get("dataset", ".") if record else "."
        return named.parent.parent / dataset if dataset.startswith("datasets/") else named
    if named.suffix not in (".yaml", ".yml"):
        raise InputError(f"{named}: there is no such directory; name a dataset directory or a config (.yaml)")
    config = load_config(named, arguments.overrides)
    step = decide(config, _root(arguments))[0]
    if step.place is None or not step.is_done:
        raise InputError(
            f"{named}: its dataset is not there ({step.reason}); "
            f"`{command_name()} shard {_origin(arguments).arguments()}` makes it"
        )
    return step.place.final


def _show_outcome(config: Config, root: Path, notes: Sequence[str]) -> None:
    print(f"\n{config.name} in {root / config.name}\n")
    print(report.headline_text(config, root))
    for note in notes:
        print(f"  {note}")


def _selection(first: str | None, last: str | None, force: Sequence[str]) -> Selection:
    selection = Selection(
        _stage_name(first or STAGES[0], "--from"),
        _stage_name(last or STAGES[-1], "--until"),
        frozenset(_stage_name(name, "--force") for name in force),
    )
    if STAGES.index(selection.first) > STAGES.index(selection.last):
        raise InputError(f"--from {first} comes after --until {last}; the order is {', '.join(STAGES)}")
    if outside := [name for name in selection.force if name not in selection]:
        raise InputError(f"--force {outside[0]}: that stage is not asked for")
    return selection


def _stage_name(word: str, flag: str) -> StageName:
    for name in STAGES:
        if name == word:
            return name
    near = get_close_matches(word, STAGES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"stages are {', '.join(STAGES)}"
    raise InputError(f"{flag} {word}: no such stage; {hint}")


def _root(arguments: argparse.Namespace) -> Path:
    root = Path(arguments.root or DEFAULT_ROOT).expanduser()
    if root.exists() and not root.is_dir():
        raise InputError(f"--root {root}: is a file, not a directory")
    return root


def _origin(arguments: argparse.Namespace) -> Origin:
    path = arguments.dataset if arguments.command == "inspect" else arguments.config
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return Origin(str(path.resolve()), tuple(arguments.overrides), arguments.root, str(shown))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
