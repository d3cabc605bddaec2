"""What training has to keep to go on where it stopped: copied out of its way, written, and read back."""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.training.checkpoint_files import (
    BEST,
    MANIFEST,
    Keep,
    Score,
    candidates,
    read_verified,
    write_checkpoint,
)
from pipeline.training.checkpoint_sharded import METADATA, read_parts, tensors_of
from pipeline.training.history import Interval
from pipeline.training.peers import ALONE, Peers
from pipeline.training.sharding import fill, is_sharded

MOMENTS = ("optimizer.pt", "discriminator_optimizer.pt")
"""Files with the state of each optimiser."""

NONE, DAMAGED, OF_BEST = -1.0, -2.0, -3.0
"""What the first process tells the others instead of a number of samples."""

VISIBLE_S = 30.0
"""How long a process waits to see a checkpoint that the first one sees."""


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

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One or two."""
        second = self.discriminator_optimizer
        return [self.optimizer, second] if second else [self.optimizer]


@dataclass(frozen=True)
class Snapshot:
    """A state in the host's memory that training no longer changes.

    Attributes:
        samples_seen: When it was taken.
        best: Its own score if it is the best so far.
        weights: Tensors by file and name.
        moments: States of optimisers by file.
        progress: The rest, as it will stand in `progress.json`.
        parts: All tensors of a divided state by name, this process's part of each; then there are no others.
    """

    samples_seen: int
    best: Score | None
    weights: Mapping[str, Mapping[str, Tensor]]
    moments: Mapping[str, Any]
    progress: Mapping[str, Any]
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file but those of parts, made one at a time to spare memory."""
        for name, tensors in self.weights.items():
            yield name, save({key: tensor.contiguous() for key, tensor in tensors.items()})
        for name, moments in self.moments.items():
            content = io.BytesIO()
            torch.save(moments, content)
            yield name, content.getvalue()
        yield "progress.json", json.dumps(self.progress).encode()


def take_snapshot(state: TrainingState) -> Snapshot:
    """Copy a state to the host's memory: all that a checkpoint costs the loop."""
    divided = is_sharded(state.model)
    modules: dict[str, nn.Module] = {} if divided else _modules(state)
    optimizers = {} if divided else dict(zip(MOMENTS, state.optimizers, strict=False))
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
        parts=_copied(tensors_of(state)) if divided else {},
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


def resume(
    root: Path,
    state: TrainingState,
    warn: Callable[[str], None],
    peers: Peers = ALONE,
    *,
    is_main: bool = True,
) -> bool:
    """Bring the state to the newest valid checkpoint, milestones and the best included.

    The first process chooses, and the others take the same.

    Args:
        root: Directory of checkpoints; may not exist.
        state: Changed in place.
        warn: Told of every checkpoint that is passed over because it is damaged.
        peers: The other processes, all of which must call it.
        is_main: Whether this is the first.

    Returns:
        False if there is none yet.

    Raises:
        InputError: If there are checkpoints and all of them are damaged, or this process does not see
            the one that the first one chose.
    """
    found, problem = _newest_valid(root, warn) if is_main else (None, "")
    code = _announced(found, problem) if is_main else 0.0
    device = next(state.model.parameters()).device
    told = peers.total(torch.tensor([code], dtype=torch.float64, device=device)).item()
    if told == DAMAGED:
        raise InputError(problem or f"{root}: the first process found every checkpoint damaged")
    if told == NONE:
        return False
    _restore(state, found or _chosen(root / (BEST if told == OF_BEST else f"{int(told):012d}")))
    return True


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be read.

    Attributes:
        directory: Where.
        files: Content by name, but for parts.
    """

    directory: Path
    files: Mapping[str, bytes]


def _newest_valid(root: Path, warn: Callable[[str], None]) -> tuple[Found | None, str]:
    """What to go on from, or what is wrong with all there is."""
    damaged: list[str] = []
    for directory in candidates(root):
        try:
            return Found(directory, read_verified(directory)), ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"checkpoint {directory} is damaged ({error}); trying the one before it")
            damaged.append(directory.name)
    problem = (
        f"{root}: every checkpoint is damaged ({', '.join(damaged)}); "
        "put one back from a copy, or train from the start with --force train"
    )
    return None, problem if damaged else ""


def _announced(found: Found | None, problem: str) -> float:
    """A number that tells the other processes what was chosen."""
    if found is None:
        return DAMAGED if problem else NONE
    return OF_BEST if found.directory.name == BEST else float(int(found.directory.name))


def _chosen(directory: Path) -> Found:
    """What the first process chose, as soon as this one sees it.

    Raises:
        InputError: If it does not come to see it.
    """
    until_s = time.monotonic() + VISIBLE_S
    while True:
        try:
            return Found(directory, read_verified(directory, parts=False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > until_s:
                raise InputError(
                    f"{directory}: the first process goes on from this checkpoint, and this one cannot "
                    f"read it ({error}); the file system does not show all of them the same files. "
                    "Run the same command again when it does"
                ) from error
            time.sleep(0.2)


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


def _modules(state: TrainingState) -> dict[str, nn.Module]:
    """By the file of their weights."""
    modules: dict[str, nn.Module] = {
        "model.safetensors": state.model,
        "average.safetensors": state.average,
    }
    if state.discriminator_optimizer:
        modules["discriminators.safetensors"] = state.discriminators
    return modules


def _restore(state: TrainingState, found: Found) -> None:
    files = found.files
    if METADATA in json.loads((found.directory / MANIFEST).read_bytes())["sha256"]:
        read_parts(found.directory, state)
    elif is_sharded(state.model):
        _divide(state, files)
    else:
        for name, module in _modules(state).items():
            module.load_state_dict(load(files[name]))
        for name, optimizer in zip(MOMENTS, state.optimizers, strict=False):
            optimizer.load_state_dict(_moments(files[name]))
    progress: dict[str, Any] = json.loads(files["progress.json"])
    state.samples_seen = progress["samples_seen"]
    state.interval = Interval(**progress["interval"])
    best = progress.get("best")
    state.best = Score(**best) if best else None


def _divide(state: TrainingState, files: Mapping[str, bytes]) -> None:
    """Give a divided state what one whole process wrote."""
    whole: dict[str, Tensor] = {}
    for file in _modules(state):
        whole |= {f"{Path(file).stem}/{name}": tensor for name, tensor in load(files[file]).items()}
    for number, file in enumerate(MOMENTS[: len(state.optimizers)]):
        for index, moments in _moments(files[file])["state"].items():
            whole |= {f"optimizer{number}/{index}/{name}": tensor for name, tensor in moments.items()}
    for name, tensor in tensors_of(state).items():
        fill(tensor, whole[name])


def _moments(content: bytes) -> dict[str, Any]:
    moments: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return moments
