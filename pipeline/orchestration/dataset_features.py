"""The frozen features of a dataset: made once, kept beside the datasets, shared by every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.shards.dataset import dataset_digest
from pipeline.durable import write_bytes
from pipeline.metrics.features import VERSION, feature_bytes
from pipeline.orchestration.lock import hold
from pipeline.orchestration.progress import Progress
from pipeline.training.feature_network import STEPS, fit_features


def dataset_features(
    root: Path,
    directory: Path,
    dataset: ShardedDataset,
    progress: Progress,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Path:
    """The file of a dataset's features; they are made if nobody has yet, while others wait.

    Args:
        root: The directory all runs and datasets live under.
        directory: The dataset; equal content has equal features, wherever it lies.
        dataset: The same, opened.
        progress: Shows a person how far it is.
        stop_requested: Whether to give up waiting for another run that makes them.

    Raises:
        Interrupted: If asked to stop while waiting.
    """
    name = f"features-{dataset_digest(directory)[:16]}-v{VERSION}.safetensors"
    path = root / "datasets" / name
    if path.exists():
        return path
    with hold(path.with_name(f".{name}.lock"), wait=True, thing=str(path), stop_requested=stop_requested):
        if not path.exists():
            progress.start("features of the dataset", STEPS, "steps")
            write_bytes(path, feature_bytes(fit_features(dataset, lambda: progress.advance(1))))
            progress.finish()
    return path
