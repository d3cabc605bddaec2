"""Whoever mirrors a run elsewhere is told when stages start and end; a run never depends on it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from pipeline.config import Config

CLOSE_TIMEOUT_S = 30.0

StageEnd = Literal["FINISHED", "FAILED", "KILLED"]


class Mirror(Protocol):
    """What follows a run directory and copies it to a tracking server."""

    def stage_started(self, stage: str) -> None:
        """A stage is about to run."""

    def stage_finished(self, stage: str, state: StageEnd) -> None:
        """A stage is over."""

    def close(self, timeout_s: float) -> list[str]:
        """Copy what is left; returns lines worth showing, such as links."""


class Watcher:
    """A mirror, or nobody."""

    def __init__(self, mirror: Mirror | None) -> None:
        self._mirror = mirror
        self.notes: list[str] = []

    def stage_started(self, stage: str) -> None:
        """A stage is about to run."""
        if self._mirror:
            self._mirror.stage_started(stage)

    def stage_finished(self, stage: str, state: StageEnd) -> None:
        """A stage is over."""
        if self._mirror:
            self._mirror.stage_finished(stage, state)

    def close(self) -> None:
        """Copy what is left and keep what the mirror says."""
        if self._mirror:
            self.notes = self._mirror.close(CLOSE_TIMEOUT_S)


@contextmanager
def watch(directory: Path, config: Config) -> Iterator[Watcher]:
    """Mirror a run directory for the duration of the block, if the config asks for it."""
    watcher = Watcher(_mirror(directory, config) if config.tracking.enabled else None)
    try:
        yield watcher
    finally:
        watcher.close()


def _mirror(directory: Path, config: Config) -> Mirror | None:
    try:
        from pipeline.orchestration.tracking import start_mirror
    except ImportError as error:
        print(f"triptych: not mirrored to MLflow: {error}", file=sys.stderr)
        return None
    mirror: Mirror = start_mirror(directory, config)
    return mirror
