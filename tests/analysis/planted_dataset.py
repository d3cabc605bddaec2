"""A dataset whose every number is known beforehand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.modality import Factor, Sample
from pipeline.data.refusal import Refusal
from pipeline.data.shards.dataset import write_dataset

SIZE = 16
CLASSES = ("floor", "cup", "unicorn")
FACTORS = (Factor("hue", ("red", "green", "blue")), Factor("shape", ("cube", "ball")))

REFUSED = (
    Refusal("rgb/7.png", "truncated", "ends after 12 bytes", "copy the file again"),
    Refusal("rgb/8.png", "truncated", "ends after 99 bytes", "copy the file again"),
    Refusal("seg/9.jpg", "lossy_labels", "labels in a JPEG", "save labels as PNG"),
)


def scene(number: int, *, rgb: bool = True, depth: bool = True, seg: bool = True) -> Sample:
    """A cup of 4 x 4 pixels at 1 m on a floor at 2 m; a column without depth, a row without label.

    RGB is noise, red where the cup is.
    """
    colours = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    metres = np.full((SIZE, SIZE), 2.0, np.float32)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    colours[4:8, 4:8] = (250, 0, 0)
    metres[4:8, 4:8] = 1.0
    labels[4:8, 4:8] = 1
    metres[:, -1] = np.nan
    labels[-1] = 255
    return Sample(
        key=f"scene-{number:04d}",
        rgb=colours if rgb else None,
        depth=metres if depth else None,
        seg=labels if seg else None,
        factors={"hue": number % 2, "shape": 0},
        origin=f"capture/{number}",
    )


def items(train: int, test: int) -> Iterator[tuple[str, Sample] | Refusal]:
    """Every fourth of the training samples has no depth; the first test sample no labels."""
    for number in range(train):
        yield "train", scene(number, depth=number % 4 != 3)
    for number in range(test):
        yield "test", scene(1000 + number, seg=number != 0)
    yield from REFUSED


def write(directory: Path, train: int = 8, test: int = 3, shard_samples: int = 5) -> Path:
    write_samples(directory, items(train, test), shard_samples)
    return directory


def write_samples(
    directory: Path, samples: Iterator[tuple[str, Sample] | Refusal], shard_samples: int = 5
) -> None:
    write_dataset(
        directory,
        samples,
        class_names=CLASSES,
        image_size=SIZE,
        shard_samples=shard_samples,
        factors=FACTORS,
        source={"kind": "planted"},
    )


class Silent:
    """Watches without a word."""

    def track(self, items, label, total, unit=""):  # type: ignore[no-untyped-def]
        yield from items
