"""Checkpoints on disk: whole or not there, the newest, the milestones and the best kept.

    checkpoints/000000012800/    named by its samples_seen; one directory per checkpoint
    checkpoints/best/            the one with the lowest validation loss, and `best.json`; shares the bytes
                                 of its numbered directory for as long as that exists
    checkpoints/latest           the name of the newest, for people and scripts

Weights that are divided among processes stand in parts, one file of each process.

A checkpoint is written under a temporary name, hashed, synced and renamed; only then is an older one
removed. So a kill or a full disk at any moment leaves the last good one.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.durable import sync_directory, synced, write_text
from pipeline.training.checkpoint_sharded import is_part

MANIFEST = "manifest.json"
LATEST = "latest"
BEST = "best"
BEST_SCORE = "best.json"
TEMPORARY = ".saving-"
PREVIOUS_BEST = ".previous-best"


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay beside the best.

    Attributes:
        newest: How many of the newest, at least 1.
        milestone_samples: The first one at or after every multiple of it; None: none.
    """

    newest: int
    milestone_samples: int | None = None


@dataclass(frozen=True)
class Score:
    """What a model is chosen by.

    Attributes:
        samples_seen: When it was measured.
        val_loss: In nats per sample; the lowest is the best.
    """

    samples_seen: int
    val_loss: float


def write_checkpoint(
    root: Path,
    samples_seen: int,
    files: Iterable[tuple[str, bytes]],
    keep: Keep,
    best: Score | None = None,
    *,
    late: bool = False,
    parts: Callable[[Path], None] | None = None,
) -> Path:
    """Write a checkpoint, then remove those that need not be kept.

    Args:
        root: Directory of checkpoints; made if it is not there.
        samples_seen: Names it.
        files: What it holds, one file at a time.
        keep: What stays.
        best: Its score if it is the best so far; it is then kept as `best` too.
        late: There may be newer ones, since it could not be written when it was taken; nothing is removed.
        parts: Writes further files into the directory that it is given, and syncs them.

    Returns:
        Its directory.

    Raises:
        OSError: If it cannot be written; older checkpoints are untouched then.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{samples_seen:012d}"
    temporary = unfinished(root, samples_seen)
    _remove_unfinished(root)
    try:
        temporary.mkdir()
        if parts:
            parts(temporary)
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        for name, content in files:
            _write(temporary / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        _write(temporary / MANIFEST, json.dumps({"sha256": digests}, indent=1).encode())
        sync_directory(temporary)
        if best:
            _keep_best(root, temporary, best)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError:
        _remove_unfinished(root)
        raise
    sync_directory(root)
    if not late:
        with contextlib.suppress(OSError):  # the checkpoint is safe without it
            write_text(root / LATEST, f"{final.name}\n")
        _prune(root, final, keep)
    return final


def unfinished(root: Path, samples_seen: int) -> Path:
    """Where a checkpoint is written before it has its name."""
    return root / f"{TEMPORARY}{samples_seen:012d}"


def candidates(root: Path) -> Iterator[Path]:
    """What may be resumed, whole or not, from the newest to the oldest; the best among them."""
    _restore_best(root)
    found = [(int(path.name), 1, path) for path in _numbered(root)]
    if (best := root / BEST).is_dir():
        score = read_best(root)
        found.append((score.samples_seen if score else 0, 0, best))
    yield from (path for *_, path in sorted(found, reverse=True))


def read_best(root: Path) -> Score | None:
    """The score of the best checkpoint; None if there is none, or its note cannot be read."""
    try:
        values = json.loads((root / BEST / BEST_SCORE).read_bytes())
        return Score(int(values["samples_seen"]), float(values["val_loss"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_verified(directory: Path, *, parts: bool = True) -> dict[str, bytes]:
    """The files of a checkpoint but for parts of divided weights, which are only compared.

    Args:
        directory: Of the checkpoint.
        parts: Compare parts with their checksums; they may be large.

    Raises:
        OSError: If one is missing or cannot be read.
        ValueError: If one is not what was written.
        KeyError: If the manifest is no manifest.
        TypeError: Likewise.
    """
    digests = json.loads((directory / MANIFEST).read_bytes())["sha256"]
    if not digests:
        raise ValueError(f"{MANIFEST} names no files")
    for name in digests if parts else ():
        if is_part(name) and _digest(directory / Path(name).name) != digests[name]:
            raise ValueError(f"{name} does not match its checksum")
    files = {name: (directory / Path(name).name).read_bytes() for name in digests if not is_part(name)}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise ValueError(f"{name} does not match its checksum")
    return files


def newest_name(root: Path) -> str | None:
    """The last good checkpoint as people call it; None if there is none."""
    return max((path.name for path in _numbered(root)), default=None)


def _keep_best(root: Path, written: Path, score: Score) -> None:
    """Let `best` be a checkpoint that is written but has no name yet; the one before stays until then."""
    building = root / f"{TEMPORARY}{BEST}"
    building.mkdir()
    for file in written.iterdir():
        _link(file, building / file.name)
    _write(building / BEST_SCORE, json.dumps(asdict(score)).encode())
    sync_directory(building)
    _restore_best(root)
    previous = root / PREVIOUS_BEST
    if (root / BEST).exists():
        (root / BEST).rename(previous)
    building.rename(root / BEST)
    sync_directory(root)
    shutil.rmtree(previous, ignore_errors=True)


def _restore_best(root: Path) -> None:
    """Undo an exchange that a kill interrupted."""
    previous = root / PREVIOUS_BEST
    if not previous.exists():
        return
    if (root / BEST).exists():
        shutil.rmtree(previous, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            previous.rename(root / BEST)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a file system without hard links
        _write(name, file.read_bytes())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with synced(path) as file:
        file.write(content)


def _numbered(root: Path) -> list[Path]:
    """Checkpoints from oldest to newest, whole or not."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.isdecimal())


def _remove_unfinished(root: Path) -> None:
    for path in root.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(root: Path, newest: Path, keep: Keep) -> None:
    """What lies beyond the newest is a damaged one that training has come back from."""
    past = [path for path in _numbered(root) if path.name <= newest.name]
    stay = {*past[-keep.newest :], *_milestones(past, keep.milestone_samples)}
    for path in _numbered(root):
        if path not in stay:
            shutil.rmtree(path, ignore_errors=True)


def _milestones(past: list[Path], interval: int | None) -> Iterator[Path]:
    """The first checkpoint at or after every multiple of the interval.

    The first of its stretch is never removed, so what is there tells which one it is.
    """
    reached = 0
    for path in past if interval else ():
        stretch = int(path.name) // interval if interval else 0
        if stretch > reached:
            reached = stretch
            yield path
