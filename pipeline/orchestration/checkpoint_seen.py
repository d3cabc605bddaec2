"""The newest checkpoint that training could go on from, as its files tell; nothing is loaded or changed."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

BEST = ("best", ".previous-best")
BEST_SCORE = "best.json"

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)

READ_BYTES = 256 << 20
"""Checkpoints up to this size are read and compared with their checksums: a second at most."""


def newest_checkpoint(root: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, and what is wrong with newer ones; the best counts too.

    Args:
        root: `train/checkpoints`.

    Returns:
        `name`, `samples`, `age_s`, `valid` (null: too large to be read for a status; its files are all
        there) and `damaged` (name to reason); name and samples are null where every checkpoint is damaged.
        None if there are no checkpoints.
    """
    damaged: dict[str, str] = {}
    found = []
    for directory in _directories(root):
        try:
            found.append((_samples(directory), directory.name.isdecimal(), directory))
        except UNREADABLE as error:
            damaged[directory.name] = str(error)
    for samples, _, directory in sorted(found, reverse=True):
        try:
            age_s = max(0.0, round(time.time() - (directory / MANIFEST).stat().st_mtime, 1))
            valid = _is_whole(directory)
        except UNREADABLE as error:
            damaged[directory.name] = str(error)
            continue
        said = {"name": directory.name, "samples": samples, "age_s": age_s, "valid": valid}
        return said | {"damaged": damaged}
    if not damaged:
        return None
    return {"name": None, "samples": None, "age_s": None, "valid": False, "damaged": damaged}


def _directories(root: Path) -> list[Path]:
    """All that training may go on from; the best has its older name if a kill interrupted its exchange."""
    if not root.is_dir():
        return []
    numbered = [path for path in root.iterdir() if path.is_dir() and path.name.isdecimal()]
    best = [path for name in BEST if (path := root / name).is_dir()]
    return numbered + best[:1]


def _samples(directory: Path) -> int:
    """When it was taken.

    Raises:
        OSError: If it is the best and has no note.
        ValueError: If that is no JSON, or KeyError or TypeError if it says something else.
    """
    if directory.name.isdecimal():
        return int(directory.name)
    return int(json.loads((directory / BEST_SCORE).read_bytes())["samples_seen"])


def _is_whole(directory: Path) -> bool | None:
    """Whether every file has its checksum; None if they are too large to be read now.

    Raises:
        OSError: If a file is missing.
        ValueError: If one is not what was written, or none is named.
    """
    digests: dict[str, str] = json.loads((directory / MANIFEST).read_bytes())["sha256"]
    if not digests:
        raise ValueError(f"{MANIFEST} names no files")
    files = [directory / Path(name).name for name in digests]
    if sum(path.stat().st_size for path in files) > READ_BYTES:
        return None
    for path, digest in zip(files, digests.values(), strict=True):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"{path.name} does not match its checksum")
    return True
