"""Files that survive a crash: whole or not at all, and on the disk when we say so."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ABANDONED_S = 3600.0
"""Longer than anybody takes to write a small file."""


@contextmanager
def synced(path: Path) -> Iterator[IO[bytes]]:
    """A new or emptied file to write into; when the block ends its content is on the disk."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with synced(temporary) as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; numbers are finite, keys keep their order.

    Raises:
        ValueError: If a number is not finite.
    """
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def remove_unfinished(directory: Path) -> None:
    """Remove, everywhere under a directory, what `write_bytes` left where its process was killed.

    Nobody else may be writing there.
    """
    for path in directory.rglob(".*.tmp"):
        if _is_ours(path):
            path.unlink(missing_ok=True)


def remove_abandoned(directory: Path, written: Path) -> None:
    """Remove from a directory, though others may write there, what nobody can be writing any more.

    A process number says nothing about other machines' processes, and their clocks may differ from ours. So
    a file must be an hour older than one that was written just now, by the file system's own clock.

    Args:
        directory: Where to look; not in what lies under it.
        written: A file that was written just now.
    """
    with contextlib.suppress(OSError):  # untidy, but harmless
        now_s = written.stat().st_mtime
        for path in directory.glob(".*.tmp"):
            if _is_ours(path) and path.lstat().st_mtime < now_s - ABANDONED_S:
                path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    return bool(path.suffixes[-2:-1]) and path.suffixes[-2][1:].isdecimal()


def sync_directory(directory: Path) -> None:
    """Make renames and new names inside a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse to sync a directory; the rename itself still happened
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Make every file and every name under a directory durable."""
    for parent, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(parent))
