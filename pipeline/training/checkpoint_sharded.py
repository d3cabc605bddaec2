"""Checkpoints of divided weights: every process writes its part, and any number of processes read them.

The format is that of `torch.distributed.checkpoint`: `__0_0.distcp`, `__1_0.distcp`, ..., one file of each
process, and `.metadata`, which says where every piece of every tensor stands. Tensors are named alike
whether a state is divided or not, so either kind of training reads either kind of checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from pipeline.training.checkpoint import TrainingState

METADATA = ".metadata"
SUFFIX = ".distcp"

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others to write their parts."""

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


def is_part(name: str) -> bool:
    """Whether a file of a checkpoint is one of these."""
    return name == METADATA or name.endswith(SUFFIX)


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    """Every tensor of a state under its name, not copied; moments of a new optimiser are made, as zeros."""
    found: dict[str, Tensor] = {}
    for kind, module in (
        ("model", state.model),
        ("average", state.average),
        ("discriminators", state.discriminators),
    ):
        found |= {f"{kind}/{name}": tensor for name, tensor in module.state_dict().items()}
    for number, optimizer in enumerate(state.optimizers):
        for index, parameter in enumerate(parameters_of(optimizer)):
            moments = _moments(optimizer, parameter)
            found |= {f"optimizer{number}/{index}/{name}": tensor for name, tensor in moments.items()}
    return found


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """In the order in which its own state counts them."""
    yield from (parameter for group in optimizer.param_groups for parameter in group["params"])


def read_parts(directory: Path, state: TrainingState) -> None:
    """Give a state, divided or not, the values of a checkpoint; this process reads what it holds.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the checkpoint is of another model.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from pipeline.training.checkpoint_reader import Reader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as is asked for
        try:
            load(tensors_of(state), storage_reader=Reader(directory), no_dist=True)
        except CheckpointException as error:
            raise ValueError(_first(error)) from error


@dataclass(frozen=True)
class Writers:
    """The threads that write checkpoints, one in each process.

    They agree with each other apart from the training, which goes on meanwhile.

    Attributes:
        group: Of the threads alone.
        is_main: Whether this one is the first, which writes the rest of a checkpoint and gives it its name.
    """

    group: Any
    is_main: bool

    @classmethod
    def meet(cls, *, is_main: bool) -> Writers:
        """Make their group; every process must call it."""
        return cls(distributed.new_group(backend="gloo", timeout=PATIENCE), is_main)

    def write(
        self,
        tensors: Mapping[str, Tensor],
        directory: Path,
        finish: Callable[[Callable[[Path], None]], object],
    ) -> None:
        """Write a checkpoint together.

        Args:
            tensors: In the host's memory; parts of divided ones.
            directory: Where parts are written before the checkpoint has its name.
            finish: Called in the first process with a function that writes the parts into the directory that
                it is given; makes that before, and the checkpoint of it afterwards.

        Raises:
            OSError: In every process, if any of them could not.
        """
        problem: OSError | None = None
        try:
            if self.is_main:
                self._lead(tensors, finish)
            else:
                self._agree(None)
                self._parts(tensors, directory)
        except OSError as error:
            problem = error
        self._agree(problem)

    def _lead(
        self, tensors: Mapping[str, Tensor], finish: Callable[[Callable[[Path], None]], object]
    ) -> None:
        """Let the others begin as soon as there is a directory to write to, or know that there is none.

        Raises:
            OSError: As `write`.
        """
        begun = False

        def parts(directory: Path) -> None:
            nonlocal begun
            begun = True
            self._agree(None)
            self._parts(tensors, directory)

        try:
            finish(parts)
        except OSError as error:
            if not begun:
                self._agree(error)
            raise

    def _parts(self, tensors: Mapping[str, Tensor], directory: Path) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        try:
            save(dict(tensors), storage_writer=FileSystemWriter(directory), process_group=self.group)
        except CheckpointException as error:
            raise OSError(_first(error)) from error

    def _agree(self, problem: OSError | None) -> None:
        """Raise in every process what went wrong in any.

        Raises:
            OSError: If it did.
        """
        told: list[str | None] = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(told, str(problem) if problem else None, group=self.group)
        if problem:
            raise problem
        if wrong := next((text for text in told if text), None):
            raise OSError(f"another process: {wrong}")


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Those of one parameter; none of one that is never trained."""
    moments: dict[str, Tensor] = optimizer.state[parameter]
    if not moments and parameter.requires_grad:
        moments[STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        moments |= {name: torch.zeros_like(parameter, requires_grad=False) for name in MOMENTS}
    return moments


def _first(error: Any) -> str:
    """What the first process that failed said."""
    cause = next(iter(error.failures.values()))[0]
    return str(cause) or type(cause).__name__
