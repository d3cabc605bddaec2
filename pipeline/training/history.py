"""`history.jsonl`: one line per interval of training, and the running averages of the next line.

It holds no timings, so that an interrupted training writes the same bytes as an uninterrupted one.
"""

import contextlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.durable import write_text


@dataclass
class Interval:
    """Sums of what the updates since the last line reported."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, values: dict[str, float]) -> None:
        """Count one update."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def mean(self) -> dict[str, float]:
        """Averages over the updates, to eight digits."""
        return {name: float(f"{total / self.steps:.8g}") for name, total in self.sums.items()}


class Recorder:
    """Adds lines; what a full disk refuses waits and is written with what follows.

    The loop appends while the thread that saves syncs.

    Args:
        path: The history, cut back to where training stands.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""
        self._lock = threading.Lock()

    def append(self, samples_seen: int, values: dict[str, float]) -> None:
        """Add a line; a reader that follows the file sees it at once."""
        with self._lock:
            self._waiting += json.dumps({"samples_seen": samples_seen, **values}).encode() + b"\n"
            with contextlib.suppress(OSError):  # the next checkpoint cannot be written either, and says so
                self._write()

    def sync(self) -> None:
        """Put the lines on the disk before the checkpoint that counts on them.

        Raises:
            OSError: If the disk refuses.
        """
        with self._lock:
            self._write()
        with self._path.open("ab") as file:
            os.fsync(file.fileno())

    def _write(self) -> None:
        append_at(self._path, self._size, self._waiting)
        self._size += len(self._waiting)
        self._waiting = b""


def append_at(path: Path, size: int, content: bytes) -> None:
    """Add to a file whose first `size` bytes are right; what lies after them was cut short."""
    with path.open("ab") as file:
        file.truncate(size)
        file.write(content)


def read_lines(path: Path) -> list[dict[str, float | int]]:
    """All complete lines, up to the first that a crash cut short or damaged."""
    if not path.exists():
        return []
    lines: list[dict[str, float | int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            lines.append(json.loads(line if line.endswith("\n") else ""))
        except json.JSONDecodeError:
            break
    return lines


def truncate(path: Path, samples_seen: int) -> None:
    """Forget what was logged after a checkpoint, because it will be logged again."""
    kept = [line for line in read_lines(path) if line["samples_seen"] <= samples_seen]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
