"""How far a stage is, for whoever watches: a bar in a terminal, a line now and then in a log."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Item = TypeVar("Item")

LOG_INTERVAL_S = 10.0
FILE_INTERVAL_S = 1.0


class Progress:
    """One task at a time: `start`, then `advance` with what was done and what is worth saying.

    Args:
        stage: Whose progress it is.
        silent: Show nothing (a process that is not the main one).
        file: Where to write the state about once a second, for those who ask from elsewhere.
    """

    def __init__(self, stage: str, *, silent: bool = False, file: Path | None = None) -> None:
        self._stage = stage
        self._silent = silent
        self._file = file
        self._written_s = 0.0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._label, self._unit, self._total, self._done = "", "", 0, 0
        self._first_done, self._started_s, self._logged_s = 0, 0.0, 0.0

    def start(self, label: str, total: int, unit: str = "", done: int = 0) -> None:
        """Begin a task of `total` units of which `done` are done already (a resumed stage)."""
        self.finish()
        self._label, self._unit, self._total, self._done, self._first_done = label, unit, total, done, done
        self._started_s = self._logged_s = time.monotonic()
        if not self._silent and sys.stderr.isatty():
            self._open_bar()
        self._write(self._started_s)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more units are done."""
        self._done += count
        now = time.monotonic()
        if now - self._written_s >= FILE_INTERVAL_S:
            self._write(now)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=f"{self._pace(now)}  {note}")
        elif not self._silent and now - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now
            self.say(
                f"{self._label}: {self._done}/{self._total} {self._unit}  {self._pace(now)}  {note}".rstrip()
            )

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(f"{self._stage}: {line}", highlight=False, markup=False)
        else:
            print(f"{self._stage}: {line}", file=sys.stderr, flush=True)

    def track(self, items: Iterable[Item], label: str, total: int, unit: str = "") -> Iterator[Item]:
        """Iterate, advancing by one for each item."""
        self.start(label, total, unit)
        for item in items:
            yield item
            self.advance()
        self.finish()

    def finish(self) -> None:
        """End the task that is shown."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def _rate(self, now: float) -> float:
        """Units per second since `start`; 0 before the first."""
        elapsed_s = now - self._started_s
        return (self._done - self._first_done) / elapsed_s if elapsed_s > 0 else 0.0

    def _pace(self, now: float) -> str:
        rate = self._rate(now)
        if rate <= 0 or not self._unit:
            return ""
        left_s = max(0, round((self._total - self._done) / rate))
        return f"{rate:.0f} {self._unit}/s, {left_s // 60}:{left_s % 60:02d} left"

    def _write(self, now: float) -> None:
        if self._file is None or self._silent:
            return
        self._written_s = now
        state = {
            "stage": self._stage,
            "task": self._label,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "per_second": round(self._rate(now), 3),
            "updated": time.time(),
        }
        temporary = self._file.with_name(f"{self._file.name}.tmp")
        with contextlib.suppress(OSError):  # a full disk is for the stage itself to meet
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(self._file)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn(f"{self._stage:>10}  {{task.description}}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
        self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
