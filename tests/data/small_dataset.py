"""Small datasets that tests write and read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.modality import DatasetInfo, Factor, Sample
from pipeline.data.shards.dataset import write_dataset

SIZE = 8
CLASSES = ("floor", "wall", "thing")
FACTORS = (Factor("hue", ("red", "green")), Factor("size", ("small", "middle", "large")))


def sample(
    number: int, *, rgb: bool = True, depth: bool = True, seg: bool = True, size: int = SIZE
) -> Sample:
    """A sample of noise that knows its number; a tenth of its depth is invalid."""
    rng = np.random.default_rng(number)
    depth_m = rng.uniform(0.5, 6.0, (size, size)).astype(np.float32)
    depth_m[rng.random((size, size)) < 0.1] = np.nan
    labels = rng.integers(0, len(CLASSES), (size, size)).astype(np.uint8)
    labels[0, 0] = 255
    return Sample(
        key=f"n{number:05d}",
        rgb=rng.integers(0, 256, (size, size, 3)).astype(np.uint8) if rgb else None,
        depth=depth_m if depth else None,
        seg=labels if seg else None,
        factors={"hue": number % 2, "size": number % 3},
        origin=f"source/{number}",
    )


def samples(train: int, test: int = 4) -> Iterator[tuple[str, Sample]]:
    for number in range(train):
        yield "train", sample(number)
    for number in range(test):
        yield "test", sample(100_000 + number)


def write(
    directory: Path, train: int = 20, test: int = 4, shard_samples: int = 6, encoding: str = "npy"
) -> DatasetInfo:
    return write_dataset(
        directory,
        samples(train, test),
        class_names=CLASSES,
        image_size=SIZE,
        encoding=encoding,
        shard_samples=shard_samples,
        factors=FACTORS,
        source={"kind": "noise"},
    )


def tree_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
