"""Which stage would run and why: one decision, shared by `plan`, `run` and `status`."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from pipeline.config import Config, key_values
from pipeline.config.existing import DatasetSource
from pipeline.config.section import Section
from pipeline.config.sources import FolderSource
from pipeline.errors import InputError
from pipeline.orchestration.ledger import (
    RESUMABLE,
    Place,
    Record,
    damage,
    place_of,
    read_attempt,
    read_record,
)
from pipeline.orchestration.listing import source_digest
from pipeline.orchestration.stage import STAGES, StageName

Verb = Literal["skip", "continue", "run", "blocked"]

VERSIONS: dict[StageName, int] = {
    "shard": 3,
    "train": 1,
    "evaluate": 2,
    "adapt": 1,
    "analyze": 1,
    "synthesize": 1,
}
"""Raised when a stage's code computes something else from the same config and inputs."""

READS: dict[StageName, tuple[str, ...]] = {
    "shard": ("data",),
    "train": ("seed", "model", "objective", "train"),
    "evaluate": ("seed", "evaluate"),
    "adapt": ("seed", "adapt"),
    "analyze": ("seed", "analyze"),
    "synthesize": ("seed", "synthesize"),
}
"""The parts of the config that decide a stage's result."""

NEEDS: dict[StageName, tuple[StageName, ...]] = {
    "shard": (),
    "train": ("shard",),
    "evaluate": ("shard", "train"),
    "adapt": ("shard", "train"),
    "analyze": ("shard", "train"),
    "synthesize": ("shard", "train"),
}
"""The stages whose results a stage reads."""

INPUT_NAMES: dict[StageName, str] = {"shard": "dataset", "train": "train"}
"""What a stage's result is called by those that read it."""

CHANGED_INPUTS = {
    "dataset": "the dataset changed",
    "train": "the trained model changed",
    "files": "the source's files changed",
    "mix": "a dataset of train.mix changed",
    "perceptual": "the network of objective.rgb.perceptual changed",
}

FORCED = "--force"
ABSENT = object()
SHOWN_CHANGES = 3
SHOWN_ERROR = 160


@dataclass(frozen=True)
class Selection:
    """Which stages a person asked for."""

    first: StageName = STAGES[0]
    last: StageName = STAGES[-1]
    force: Collection[StageName] = ()

    def __contains__(self, stage: StageName) -> bool:
        return STAGES.index(self.first) <= STAGES.index(stage) <= STAGES.index(self.last)


@dataclass(frozen=True)
class Step:
    """What would happen to one stage.

    Attributes:
        stage: Which one.
        verb: skip, continue, run or blocked.
        reason: Why, for people.
        wanted: What the result would be recorded as; None while an input is not known yet.
        place: Where it works and ends; None while the key is not known.
        record: The complete record when the stage is skipped because it is done.
    """

    stage: StageName
    verb: Verb
    reason: str
    wanted: Record | None = None
    place: Place | None = None
    record: Record | None = None

    @property
    def is_done(self) -> bool:
        """Whether a complete result of exactly this config and these inputs exists."""
        return self.record is not None


def plan(config: Config, root: Path, selection: Selection | None = None) -> list[Step]:
    """Decide every stage, in the order of a run. Reads, never writes.

    Raises:
        InputError: If a ledger is damaged or the source's files are not there.
    """
    selection = selection or Selection()
    truth: dict[StageName, Step] = {}
    for stage in STAGES:
        truth[stage] = _decide(stage, config, root, truth, selection)
    return [_restrict(step, truth, selection) for step in truth.values()]


def _decide(
    stage: StageName, config: Config, root: Path, before: dict[StageName, Step], selection: Selection
) -> Step:
    if stage == "adapt" and (reason := _nothing_to_adapt_to(config, before["shard"])):
        return Step(stage, "skip", reason)
    forced = stage in selection.force and stage in selection
    pending = [name for name in NEEDS[stage] if not before[name].is_done]
    if pending:
        return Step(stage, "run", FORCED if forced else f"after {' and '.join(pending)}")
    wanted = _wanted(stage, config, before, root)
    place = place_of(root, config.name, stage, wanted.key)
    verb, reason, record = ("run", FORCED, None) if forced else _compare(wanted, place)
    return Step(stage, verb, reason, wanted, place, record)


def _compare(wanted: Record, place: Place) -> tuple[Verb, str, Record | None]:
    done = read_record(place.final)
    if done and done.key == wanted.key and done.state == "complete":
        if problem := damage(place.final, done):
            return "continue" if wanted.stage in RESUMABLE else "run", problem, None
        return "skip", _why_skipped(place), done
    attempt = read_attempt(place)
    if attempt and attempt.key == wanted.key:
        return "continue", _how_it_ended(attempt), None
    previous = read_record(place.home)
    return "run", _changes(previous, wanted) if previous else "no result yet", None


def _why_skipped(place: Place) -> str:
    if place.home == place.final:
        return "complete"
    own = read_record(place.home)
    shared = own is None or own.outputs.get("dataset", "").rpartition("/")[2] != place.final.name
    return (
        f"datasets/{place.final.name} is there already, made with the same data config"
        if shared
        else "complete"
    )


def _how_it_ended(attempt: Record) -> str:
    error = shorten(attempt.error.partition("\n")[0], SHOWN_ERROR, placeholder=" ...")
    return f"failed: {error}" if error else "interrupted"


def _restrict(step: Step, truth: dict[StageName, Step], selection: Selection) -> Step:
    if step.stage not in selection:
        return step if step.is_done else replace(step, verb="skip", reason="not asked for")
    if step.verb in ("skip", "blocked"):
        return step
    for name in NEEDS[step.stage]:
        if not truth[name].is_done and name not in selection:
            return replace(
                step, verb="blocked", reason=f"needs {name}, which is not done ({truth[name].reason})"
            )
    return step


def _wanted(stage: StageName, config: Config, before: dict[StageName, Step], root: Path) -> Record:
    values = {name: _decisive(getattr(config, name)) for name in READS[stage]}
    inputs = {INPUT_NAMES[name]: before[name].record.digest for name in NEEDS[stage]}  # type: ignore[union-attr]
    if stage == "shard" and (files := _files_digest(config, root)) is not None:
        inputs["files"] = files
    if stage == "train":
        inputs |= _mixed_digests(config) | _perceptual_digest(config)
    version = _version(stage, config)
    described = json.dumps([stage, version, values, inputs], sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()
    return Record(stage, "running", key, version, values, inputs)


def _version(stage: StageName, config: Config) -> int:
    """Of a stage's code. Training with an image adversary is one ahead: its discriminator changed alone."""
    judged = stage == "train" and config.objective.adversary.kind == "image"
    return VERSIONS[stage] + judged


def _decisive(value: object) -> Any:
    return key_values(value) if isinstance(value, Section) else value


def _mixed_digests(config: Config) -> dict[str, str]:
    """Of the other datasets that training draws from."""
    if not config.train.mix:
        return {}
    from pipeline.data.shards.dataset import dataset_digest

    return {f"mix.{number}": dataset_digest(part.dataset) for number, part in enumerate(config.train.mix)}


def _perceptual_digest(config: Config) -> dict[str, str]:
    """Of the network that a perceptual term compares features of.

    Raises:
        InputError: If its file cannot be read.
    """
    perceptual = config.objective.rgb.perceptual
    if perceptual is None:
        return {}
    try:
        with perceptual.network.open("rb") as file:
            return {"perceptual": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise InputError(
            f"objective.rgb.perceptual.network: {perceptual.network}: {error.strerror}; give a safetensors "
            "file with the weights of VGG-16's convolutions, or remove objective.rgb.perceptual"
        ) from None


def _files_digest(config: Config, root: Path) -> str | None:
    """Of the listing of the source's files; what was recorded, where a finished run lies without its source.

    Raises:
        InputError: If the files are not there and nothing was recorded.
    """
    try:
        return source_digest(config.data)
    except InputError:
        recorded = read_record(root / config.name / "shard")
        if recorded and recorded.state == "complete":
            return recorded.inputs.get("files", "")
        raise


def _nothing_to_adapt_to(config: Config, shard: Step) -> str | None:
    """Why there is nothing to adapt to; a source with splits of its own may hold samples out itself."""
    if config.data.held_out.factors or config.data.held_out.classes:
        return None
    source = config.data.source
    may_hold_out = isinstance(source, DatasetSource) or (
        isinstance(source, FolderSource) and bool(source.meta)
    )
    found = shard.record.headline.get("samples/heldout", 0) if shard.record else may_hold_out
    return None if found else "nothing is held out (data.held_out is empty)"


def _changes(previous: Record, wanted: Record) -> str:
    """What differs from the last time, old -> new."""
    old, new = dict(_flat(previous.config)), dict(_flat(wanted.config))
    changed = [
        f"{key}: {_shown(old.get(key, ABSENT))} -> {_shown(new.get(key, ABSENT))}"
        for key in {**new, **old}
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]
    changed += [
        CHANGED_INPUTS[name.partition(".")[0]]
        for name, digest in wanted.inputs.items()
        if previous.inputs.get(name) != digest
    ]
    if previous.version != wanted.version:
        changed.append(f"version of {wanted.stage}: {previous.version} -> {wanted.version}")
    more = f", and {len(changed) - SHOWN_CHANGES} more" if len(changed) > SHOWN_CHANGES else ""
    return ", ".join(changed[:SHOWN_CHANGES]) + more


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return "absent" if value is ABSENT else json.dumps(value).strip('"')
