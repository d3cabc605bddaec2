"""What each stage left behind: `stage.json`, written last, in a directory that appears whole or not at all.

Under a root:

    <name>/<stage>/            a finished stage (train works here too, since it is resumable)
    <name>/.<stage>.partial/   a stage at work, which goes on there if it was interrupted
    <name>/<stage>.<key8>/     a superseded result; only `clean` removes it
    datasets/<key16>/          what shard made, shared by all runs with the same data config
"""

import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.durable import remove_unfinished, sync_directory, sync_tree, write_json
from pipeline.errors import InputError
from pipeline.orchestration.contents import content_digest, file_sizes, non_finite
from pipeline.orchestration.stage import Manifest, StageName

State = Literal["running", "complete", "failed"]

RECORD = "stage.json"
METRICS = "metrics.json"
TIMING = "timing.json"

RESUMABLE: tuple[StageName, ...] = ("train",)
"""Stages that work in their final directory and save on request. The others go on with the parts that an
interrupted attempt with the same key made."""

PARTS = ".parts"
"""In a working directory: the parts of its work that are done (`pipeline.orchestration.shares`)."""

MODEL_FILES = ("model.safetensors", "model.json")
"""What later stages read of `train/`; its history and checkpoints do not make them run again."""

DATASET_FILES = ("dataset.json", "index.parquet")
"""What says all of a dataset, the hash of every tar included; metrics and pictures are only about it."""

PICTURES = "pictures"
"""Of a dataset they may differ between versions of a library, and get lost: it is the same dataset."""


@dataclass(frozen=True)
class Record:
    """The content of `stage.json`.

    Attributes:
        stage: Which stage.
        state: How far the latest attempt came.
        key: Hash of version, config and inputs: what the result depends on.
        version: Of the stage's own code, raised when it computes something else.
        config: What of the config decides the result.
        inputs: Name to digest of what was read.
        attempts: How often the stage was started to get here.
        outputs: Name to path, relative to the stage's directory or, for `datasets/...`, to the root.
        files: Name to size in bytes of what a complete stage must hold.
        digest: Of the contents that later stages depend on.
        headline: The few metrics shown in tables.
        execution: Processes, and threads of each.
        error: Why the latest attempt failed.
    """

    stage: StageName
    state: State
    key: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    attempts: int = 1
    outputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    headline: dict[str, float] = field(default_factory=dict)
    execution: dict[str, int] = field(default_factory=dict)
    error: str = ""


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class Place:
    """Where a stage of one key works and ends.

    Attributes:
        home: `<root>/<name>/<stage>`, where people look.
        final: Where the result ends: home, or for shard the dataset directory.
        working: Where it is made: final itself for resumable stages.
    """

    home: Path
    final: Path
    working: Path


def place_of(root: Path, name: str, stage: StageName, key: str) -> Place:
    """Where a stage works and ends."""
    home = root / name / stage
    if stage == "shard":
        datasets = root / "datasets"
        return Place(home, datasets / key[:16], datasets / f".{key[:16]}.partial")
    if stage in RESUMABLE:
        return Place(home, home, home)
    return Place(home, home, home.with_name(f".{stage}.partial"))


def read_record(directory: Path) -> Record | None:
    """The record of a stage directory, or None when there is no such directory or it is empty.

    Raises:
        InputError: If the directory holds something else, or its record cannot be read.
    """
    path = directory / RECORD
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if directory.is_dir() and any(not entry.name.startswith(".") for entry in directory.iterdir()):
            raise InputError(
                f"{directory}: holds files but no {RECORD}, so no stage finished or was interrupted here; "
                "move it away or choose another `name` or --root"
            ) from None
        return None
    except ValidationError as error:
        raise InputError(
            f"{path}: damaged, cannot be read as a ledger ({error.errors()[0]['msg']}); nothing was changed. "
            f"To set the directory aside and make it again, run with --force {_stage_of(directory)}"
        ) from None


def read_attempt(place: Place) -> Record | None:
    """The record of the latest attempt; what a partial directory holds is ours to throw away."""
    return read_record(place.working) if place.working == place.final else _readable(place.working)


def damage(directory: Path, record: Record) -> str | None:
    """What a complete stage's directory lacks of what was recorded, or None."""
    for name, size in record.files.items():
        try:
            found = (directory / name).stat().st_size
        except OSError:
            return f"{directory / name} is missing"
        if found != size:
            return f"{directory / name} has {found} bytes instead of {size}"
    return None


def begin(place: Place, record: Record, *, anew: bool = False) -> Record:
    """Prepare the working directory and record there that the stage runs.

    Args:
        place: Where the stage works.
        record: What is about to run; its count of attempts is replaced.
        anew: Do not go on with what an interrupted attempt left, even of the same key.

    Returns:
        The record as written.
    """
    previous = _readable(place.working)
    same = previous is not None and previous.key == record.key
    if place.working != place.final:
        if anew or not same:
            shutil.rmtree(place.working, ignore_errors=True)
    elif place.working.exists() and (anew or not same):
        set_aside(place.working)
        same = False
    place.working.mkdir(parents=True, exist_ok=True)
    attempts = previous.attempts + 1 if previous and same else 1
    started = replace(record, state="running", attempts=attempts, error="")
    write_record(place.working, started)
    return started


def fail(place: Place, record: Record, error: str) -> None:
    """Record why the attempt failed."""
    write_record(place.working, replace(record, state="failed", error=error))


def commit(place: Place, record: Record, manifest: Manifest, root: Path) -> Record:
    """Record what a stage returned and move its directory in place, durably and last of all.

    Raises:
        ValueError: If a metric is not finite or an output does not exist: the stage is wrong.
    """
    if bad := non_finite({**manifest.metrics, **manifest.timing}):
        raise ValueError(f"{record.stage}: not a finite number: {', '.join(bad)}")
    lost = [
        f"{name} ({path})"
        for name, path in manifest.outputs.items()
        if not _output(place, root, path).exists()
    ]
    if lost:
        raise ValueError(f"{record.stage}: declared but not written: {', '.join(lost)}")
    directory = place.working
    remove_unfinished(directory)
    write_json(directory / METRICS, dict(sorted(manifest.metrics.items())))
    write_json(directory / TIMING, dict(sorted(manifest.timing.items())))
    beside = (PICTURES,) if record.stage == "shard" else ()
    files = file_sizes(directory, leave_out=(RECORD, TIMING, "checkpoints", PARTS, *beside))
    complete = replace(
        record,
        state="complete",
        outputs=manifest.outputs,
        files=files,
        digest=content_digest(directory, _read_later(record.stage, files)),
        headline={name: manifest.metrics[name] for name in manifest.headline},
    )
    sync_tree(directory)
    write_record(directory, complete)
    settle(place)
    return complete


def settle(place: Place) -> None:
    """Move a directory whose record says complete to its final name, setting aside what is there."""
    if place.working == place.final:
        return
    shutil.rmtree(place.working / PARTS, ignore_errors=True)
    if place.final.exists():
        set_aside(place.final)
    place.working.rename(place.final)
    sync_directory(place.final.parent)


def adopt_dataset(place: Place, root: Path) -> Record:
    """Name a finished dataset directory in the run's own `shard/`."""
    record = read_record(place.final)
    assert record is not None
    assert record.state == "complete"
    named = replace(record, files={}, outputs={"dataset": place.final.relative_to(root).as_posix()})
    previous = _readable(place.home)
    if previous == named:
        return named
    partial = place.home.with_name(f".{place.home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in (METRICS, TIMING):
        shutil.copyfile(place.final / name, partial / name)
    if (place.final / PICTURES).is_dir():
        shutil.copytree(place.final / PICTURES, partial / PICTURES)
    write_record(partial, named)
    if place.home.exists():
        set_aside(place.home)
    partial.rename(place.home)
    sync_directory(place.home.parent)
    return named


def set_aside(directory: Path) -> Path:
    """Rename a superseded directory to `<name>.<key8>`, which `clean` removes."""
    record = _readable(directory)
    stem = f"{directory.name}.{record.key[:8] if record else 'unreadable'}"
    target = directory.with_name(stem)
    count = 2
    while target.exists():
        target = directory.with_name(f"{stem}.{count}")
        count += 1
    directory.rename(target)
    sync_directory(directory.parent)
    return target


def write_record(directory: Path, record: Record) -> None:
    """Replace `stage.json` atomically."""
    write_json(directory / RECORD, asdict(record))


def _readable(directory: Path) -> Record | None:
    try:
        return read_record(directory)
    except InputError:
        return None


def _read_later(stage: StageName, files: Collection[str]) -> Collection[str]:
    decisive = {"train": MODEL_FILES, "shard": DATASET_FILES}.get(stage, ())
    return [name for name in decisive if name in files] or files


def _output(place: Place, root: Path, path: str) -> Path:
    return root / path if path.startswith("datasets/") else place.working / path


def _stage_of(directory: Path) -> str:
    return (
        "shard" if directory.parent.name == "datasets" else directory.name.strip(".").removesuffix(".partial")
    )
