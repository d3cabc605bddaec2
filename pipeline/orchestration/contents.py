"""What files a directory holds and what is in them, and numbers fit to be written."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path


def non_finite(values: Mapping[str, float]) -> list[str]:
    """The names whose numbers are NaN or infinite, each with its number."""
    return [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]


def file_sizes(directory: Path, leave_out: Iterable[str] = ()) -> dict[str, int]:
    """Size in bytes of every file under a directory by its relative name, in name order.

    Args:
        directory: Where to look.
        leave_out: Names at the top of the directory to ignore, files or folders.
    """
    ignored = set(leave_out)
    files = (path for path in directory.rglob("*") if path.is_file())
    relative = {path.relative_to(directory): path.stat().st_size for path in files}
    return {name.as_posix(): size for name, size in sorted(relative.items()) if name.parts[0] not in ignored}


def content_digest(directory: Path, names: Iterable[str]) -> str:
    """SHA-256 over the names and contents of files, independent of where the directory lies."""
    total = hashlib.sha256()
    for name in sorted(names):
        with (directory / name).open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def listing_digest(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over names, sizes and modification times: notices changed files without reading them."""
    total = hashlib.sha256()
    for name in sorted(names):
        start = root / name
        files = [start] if start.is_file() else sorted(path for path in start.rglob("*") if path.is_file())
        for path in files:
            status = path.stat()
            total.update(
                f"{path.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
            )
    return total.hexdigest()
