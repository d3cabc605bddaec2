"""Removing what no finished or unfinished stage needs any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.orchestration.ledger import Record, read_record
from pipeline.orchestration.lock import hold, read_holder
from pipeline.orchestration.stage import STAGES


@dataclass(frozen=True)
class Leftover:
    """A directory that may go, why, and its size."""

    path: Path
    reason: str
    size: int


def leftovers(root: Path, name: str) -> list[Leftover]:
    """Superseded and partial stages of a run, and datasets that no run under the root names."""
    found = [*_superseded(root / name), *_unused_datasets(root)]
    return [Leftover(path, reason, _size(path)) for path, reason in found]


def clean(root: Path, name: str) -> list[Leftover]:
    """Remove the leftovers of a run.

    Returns:
        What was removed.

    Raises:
        InputError: If there is no such run or it is in use.
    """
    if not (root / name).is_dir():
        raise InputError(f"{root / name}: there is no such run; nothing to clean")
    with hold(root / name / "lock.json"):
        removed = leftovers(root, name)
        for leftover in removed:
            shutil.rmtree(leftover.path)
    return removed


def _superseded(directory: Path) -> Iterator[tuple[Path, str]]:
    for stage in STAGES:
        for path in sorted(directory.glob(f"{stage}.*")):
            yield path, "superseded"
        partial = directory / f".{stage}.partial"
        if partial.is_dir():
            yield partial, "unfinished, would start anew"


def _unused_datasets(root: Path) -> Iterator[tuple[Path, str]]:
    used = {Path(record.outputs["dataset"]).name for record in _shard_records(root)}
    for path in sorted((root / "datasets").glob("*")):
        key = path.name.removeprefix(".").removesuffix(".partial")
        holder = read_holder(path.with_name(f".{key}.lock"))
        if path.name not in used and path.is_dir() and not (holder and holder.is_alive()):
            yield path, "no run uses this dataset" if path.name == key else "unfinished"


def _shard_records(root: Path) -> Iterator[Record]:
    """Of every run, superseded ones too: an old result may still be looked at with its data."""
    for directory in root.glob("*/shard*"):
        record = read_record(directory)
        if record and "dataset" in record.outputs:
            yield record


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
