"""Which runs a comparison is of, and what each would do."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipeline.config import Config, load_config
from pipeline.config.files import read_tree
from pipeline.errors import InputError, command_name
from pipeline.orchestration.compared import comparison_directory
from pipeline.orchestration.origin import Origin, refuse_other_config
from pipeline.orchestration.plan import Selection, Step, plan

SELECTION = Selection(last="evaluate")
SUFFIXES = (".yaml", ".yml")


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


def origin_of(request: Request) -> Origin:
    """What a person types after other commands to mean the comparison's config."""
    return Origin(str(request.config.resolve()), request.overrides, request.given_root, str(request.config))


def plan_rows(runs: Sequence[Member], steps: dict[str, list[Step]]) -> Iterator[tuple[str, ...]]:
    """A line per run: what each of its stages would do."""
    yield ("run", "shard", "train", "evaluate")
    for member in runs:
        verbs = {step.stage: step.verb for step in steps[member.config.name]}
        yield (member.config.name, verbs["shard"], verbs["train"], verbs["evaluate"])


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
