"""The newest checkpoint that training could go on from, as its files tell; nothing is loaded or changed."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

READ_BYTES = 256 << 20
"""Checkpoints up to this size are read and compared with their checksums: a second at most."""


def newest_checkpoint(root: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, and what is wrong with newer ones.

    Args:
        root: `train/checkpoints`.

    Returns:
        `name`, `samples`, `age_s`, `valid` (null: too large to be read for a status; its files are all
        there) and `damaged` (name to reason); name and samples are null where every checkpoint is damaged.
        None if there are no checkpoints.
    """
    damaged: dict[str, str] = {}
    for directory in _numbered(root):
        try:
            age_s = max(0.0, round(time.time() - (directory / MANIFEST).stat().st_mtime, 1))
            valid = _is_whole(directory)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged[directory.name] = str(error)
            continue
        said = {"name": directory.name, "samples": int(directory.name), "age_s": age_s, "valid": valid}
        return said | {"damaged": damaged}
    if not damaged:
        return None
    return {"name": None, "samples": None, "age_s": None, "valid": False, "damaged": damaged}


def _numbered(root: Path) -> list[Path]:
    """From the newest to the oldest."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.name.isdecimal()), reverse=True)


def _is_whole(directory: Path) -> bool | None:
    """Whether every file has its checksum; None if they are too large to be read now.

    Raises:
        OSError: If a file is missing.
        ValueError: If one is not what was written.
    """
    digests: dict[str, str] = json.loads((directory / MANIFEST).read_bytes())["sha256"]
    files = [directory / Path(name).name for name in digests]
    if sum(path.stat().st_size for path in files) > READ_BYTES:
        return None
    for path, digest in zip(files, digests.values(), strict=True):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"{path.name} does not match its checksum")
    return True
