"""Checkpoints that are whole or not there, and a way back to the newest whole one.

A checkpoint is a directory named by its samples_seen. It is written under a temporary name, hashed,
synced and renamed; only then is an older one removed. So a kill or a full disk at any moment leaves the
last good one.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from pipeline.durable import sync_directory, synced, write_text
from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import weight_bytes
from pipeline.training.history import Interval

MANIFEST = "manifest.json"
LATEST = "latest"
TEMPORARY = ".saving-"


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
    """

    model: SharedLatentAutoencoder
    average: SharedLatentAutoencoder
    optimizer: torch.optim.Optimizer
    samples_seen: int = 0
    interval: Interval = field(default_factory=Interval)
    discriminators: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    discriminator_optimizer: torch.optim.Optimizer | None = None


def save_checkpoint(root: Path, state: TrainingState, keep: int) -> Path:
    """Save, then remove all but the `keep` newest.

    Args:
        root: Directory of checkpoints; made if it is not there.
        state: What to save.
        keep: How many to keep, this one included.

    Returns:
        The new checkpoint's directory.

    Raises:
        OSError: If it cannot be written; older checkpoints are untouched then.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{state.samples_seen:012d}"
    temporary = root / f"{TEMPORARY}{final.name}"
    _remove_unfinished(root)
    try:
        temporary.mkdir()
        files = _contents(state)
        for name, content in files.items():
            _write(temporary / name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        _write(temporary / MANIFEST, json.dumps({"sha256": digests}, indent=1).encode())
        sync_directory(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(root)
    _point_latest(root, final.name)
    _prune(root, final, keep)
    return final


def resume(root: Path, state: TrainingState, warn: Callable[[str], None]) -> bool:
    """Bring the state to the newest valid checkpoint.

    Args:
        root: Directory of checkpoints; may not exist.
        state: Changed in place.
        warn: Told of every checkpoint that is passed over because it is damaged.

    Returns:
        False if there is none yet.

    Raises:
        InputError: If there are checkpoints and all of them are damaged.
    """
    candidates = _saved(root)[::-1]
    for directory in candidates:
        try:
            files = _read_verified(directory)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"checkpoint {directory} is damaged ({error}); trying the one before it")
            continue
        _restore(state, files)
        return True
    if candidates:
        raise InputError(
            f"{root}: every checkpoint is damaged ({', '.join(path.name for path in candidates)}); "
            f"put one back from a copy, or train from the start with --force train"
        )
    return False


def _contents(state: TrainingState) -> dict[str, bytes]:
    progress = {"samples_seen": state.samples_seen, "interval": asdict(state.interval)}
    contents = {
        "model.safetensors": weight_bytes(state.model),
        "average.safetensors": weight_bytes(state.average),
        "optimizer.pt": _moments(state.optimizer),
        "progress.json": json.dumps(progress).encode(),
    }
    if state.discriminator_optimizer:
        contents["discriminators.safetensors"] = weight_bytes(state.discriminators)
        contents["discriminator_optimizer.pt"] = _moments(state.discriminator_optimizer)
    return contents


def _moments(optimizer: torch.optim.Optimizer) -> bytes:
    content = io.BytesIO()
    torch.save(optimizer.state_dict(), content)
    return content.getvalue()


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


def _restore_moments(optimizer: torch.optim.Optimizer, content: bytes) -> None:
    optimizer.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def _read_verified(directory: Path) -> dict[str, bytes]:
    digests = json.loads((directory / MANIFEST).read_bytes())["sha256"]
    files = {name: (directory / Path(name).name).read_bytes() for name in digests}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise ValueError(f"{name} does not match its checksum")
    return files


def _write(path: Path, content: bytes) -> None:
    with synced(path) as file:
        file.write(content)


def _point_latest(root: Path, name: str) -> None:
    """For people and scripts; `resume` looks for itself."""
    write_text(root / LATEST, f"{name}\n")


def _saved(root: Path) -> list[Path]:
    """Checkpoints from oldest to newest, whole or not."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.isdecimal())


def _remove_unfinished(root: Path) -> None:
    for path in root.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(root: Path, newest: Path, keep: int) -> None:
    """What lies beyond the newest is a damaged one that training has come back from."""
    past = [path for path in _saved(root) if path.name <= newest.name]
    for path in _saved(root):
        if path not in past[-keep:]:
            shutil.rmtree(path, ignore_errors=True)
