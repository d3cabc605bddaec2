"""What a stage is given and what it leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.orchestration.progress import Progress

StageName = Literal["shard", "train", "evaluate", "adapt", "analyze", "synthesize"]
STAGES: tuple[StageName, ...] = ("shard", "train", "evaluate", "adapt", "analyze", "synthesize")
"""In the order of a run."""


@dataclass(frozen=True)
class World:
    """This process among those of its stage."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0


@dataclass(frozen=True)
class Context:
    """Everything a stage needs beside its own part of the config.

    Attributes:
        run_name: Name of the run.
        seed: The run's seed.
        root: The directory all runs and datasets live under.
        directory: Where this stage writes; exists, may hold what an interrupted attempt left if
            the stage is resumable, and becomes `<root>/<name>/<stage>` when the stage is done.
        inputs: Finished results this stage reads: `dataset` (a dataset directory), `train`.
        world: This process among its peers.
        progress: Shows a person how far the stage is.
        stop_requested: Whether the stage was asked to stop. A resumable stage looks at it after
            every step, saves, and raises `pipeline.errors.Interrupted`; the others are stopped
            from outside and start anew next time.
        peer_failure: Why another process of the stage failed; None as long as none did. For stages
            whose processes wait for each other's files.
        is_over: Whether the ledger says that the stage is complete, so that nobody is needed any more.
    """

    run_name: str
    seed: int
    root: Path
    directory: Path
    inputs: dict[str, Path]
    world: World
    progress: Progress
    stop_requested: Callable[[], bool] = lambda: False
    peer_failure: Callable[[], str | None] = lambda: None
    is_over: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Manifest:
    """What a stage returns: the main process's is kept in `stage.json`.

    Attributes:
        metrics: Flat name to number; written to `metrics.json`.
        headline: The few of `metrics` shown in tables and on the parent run.
        outputs: Name to path, relative to the stage's directory unless it begins with
            `datasets/`, which is relative to the root.
        timing: Seconds and rates; written to `timing.json`, never part of `metrics`.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
