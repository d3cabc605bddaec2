"""What training has to keep to go on where it stopped: copied out of its way, written, and read back."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.training.checkpoint_files import Keep, Score, candidates, read_verified, write_checkpoint
from pipeline.training.history import Interval


@dataclass
class TrainingState:
    """All that training changes; everything else is a function of the config and samples_seen.

    Attributes:
        model: Weights being trained.
        average: Their moving average.
        optimizer: With its moments.
        samples_seen: Over all processes, repetitions counted.
        interval: What the next line of the history has so far.
        discriminators: The second player; empty for systems without one.
        discriminator_optimizer: With its moments; None without discriminators.
        best: The lowest validation loss so far; None before the first.
    """

    model: SharedLatentAutoencoder
    average: SharedLatentAutoencoder
    optimizer: torch.optim.Optimizer
    samples_seen: int = 0
    interval: Interval = field(default_factory=Interval)
    discriminators: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    discriminator_optimizer: torch.optim.Optimizer | None = None
    best: Score | None = None


@dataclass(frozen=True)
class Snapshot:
    """A state in the host's memory that training no longer changes.

    Attributes:
        samples_seen: When it was taken.
        best: Its own score if it is the best so far.
        weights: Tensors by file and name.
        moments: States of optimisers by file.
        progress: The rest, as it will stand in `progress.json`.
    """

    samples_seen: int
    best: Score | None
    weights: Mapping[str, Mapping[str, Tensor]]
    moments: Mapping[str, Any]
    progress: Mapping[str, Any]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file, made one at a time to spare memory."""
        for name, tensors in self.weights.items():
            yield name, save({key: tensor.contiguous() for key, tensor in tensors.items()})
        for name, moments in self.moments.items():
            content = io.BytesIO()
            torch.save(moments, content)
            yield name, content.getvalue()
        yield "progress.json", json.dumps(self.progress).encode()


def take_snapshot(state: TrainingState) -> Snapshot:
    """Copy a state to the host's memory: all that a checkpoint costs the loop."""
    modules: dict[str, nn.Module] = {
        "model.safetensors": state.model,
        "average.safetensors": state.average,
    }
    optimizers = {"optimizer.pt": state.optimizer}
    if state.discriminator_optimizer:
        modules["discriminators.safetensors"] = state.discriminators
        optimizers["discriminator_optimizer.pt"] = state.discriminator_optimizer
    own = state.best if state.best and state.best.samples_seen == state.samples_seen else None
    return Snapshot(
        samples_seen=state.samples_seen,
        best=own,
        weights={name: _copied(module.state_dict()) for name, module in modules.items()},
        moments={name: _copied(optimizer.state_dict()) for name, optimizer in optimizers.items()},
        progress={
            "samples_seen": state.samples_seen,
            "interval": asdict(state.interval),
            "best": asdict(state.best) if state.best else None,
        },
    )


def save_checkpoint(root: Path, state: TrainingState, keep: int | Keep) -> Path:
    """Save a state here and now, then remove what need not be kept.

    Args:
        root: Directory of checkpoints; made if it is not there.
        state: What to save.
        keep: What to keep, or how many of the newest, this one included.

    Returns:
        The new checkpoint's directory.

    Raises:
        OSError: If it cannot be written; older checkpoints are untouched then.
    """
    kept = Keep(keep) if isinstance(keep, int) else keep
    snapshot = take_snapshot(state)
    return write_checkpoint(root, snapshot.samples_seen, snapshot.files(), kept, snapshot.best)


def resume(root: Path, state: TrainingState, warn: Callable[[str], None]) -> bool:
    """Bring the state to the newest valid checkpoint, milestones and the best included.

    Args:
        root: Directory of checkpoints; may not exist.
        state: Changed in place.
        warn: Told of every checkpoint that is passed over because it is damaged.

    Returns:
        False if there is none yet.

    Raises:
        InputError: If there are checkpoints and all of them are damaged.
    """
    damaged: list[str] = []
    for directory in candidates(root):
        try:
            files = read_verified(directory)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"checkpoint {directory} is damaged ({error}); trying the one before it")
            damaged.append(directory.name)
            continue
        _restore(state, files)
        return True
    if damaged:
        raise InputError(
            f"{root}: every checkpoint is damaged ({', '.join(damaged)}); "
            f"put one back from a copy, or train from the start with --force train"
        )
    return False


def _copied(values: Any) -> Any:
    """The same with every tensor copied to the host's memory."""
    match values:
        case Tensor():
            return values.detach().to("cpu", copy=True)
        case Mapping():
            return {key: _copied(value) for key, value in values.items()}
        case list() | tuple():
            return type(values)(_copied(value) for value in values)
        case _:
            return values


def _restore(state: TrainingState, files: dict[str, bytes]) -> None:
    state.model.load_state_dict(load(files["model.safetensors"]))
    state.average.load_state_dict(load(files["average.safetensors"]))
    _restore_moments(state.optimizer, files["optimizer.pt"])
    if state.discriminator_optimizer:
        state.discriminators.load_state_dict(load(files["discriminators.safetensors"]))
        _restore_moments(state.discriminator_optimizer, files["discriminator_optimizer.pt"])
    progress: dict[str, Any] = json.loads(files["progress.json"])
    state.samples_seen = progress["samples_seen"]
    state.interval = Interval(**progress["interval"])
    best = progress.get("best")
    state.best = Score(**best) if best else None


def _restore_moments(optimizer: torch.optim.Optimizer, content: bytes) -> None:
    optimizer.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
