"""A small dataset of squares, with discs held out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, World

SIDE = 32
CLASS_NAMES = ("floor", "wall", "square", "disc")
DISC = CLASS_NAMES.index("disc")
EVERYTHING = ("rgb", "depth", "seg")
COUNTS = {"train": 96, "test": 16, "heldout": 30}


def scene(number: int, disc: bool, modalities: Sequence[str] = EVERYTHING) -> Sample:
    """A square or a disc, standing before a wall; the left column has neither depth nor label."""
    rng = np.random.default_rng(number)
    row, column = np.mgrid[:SIDE, :SIDE]
    top, left = rng.integers(4, 16, 2)
    if disc:
        inside = (row - top - 6) ** 2 + (column - left - 6) ** 2 < 36
    else:
        inside = (abs(row - top - 6) < 6) & (abs(column - left - 6) < 6)
    wall = row < 14
    rgb = np.where(wall[..., None], rng.integers(60, 200, 3), 90)
    rgb = np.where(inside[..., None], rng.integers(0, 256, 3), rgb).astype(np.uint8)
    depth = np.where(inside, 1.5, np.where(wall, 4.0, 4.0 - 0.1 * (row - 14))).astype(np.float32)
    seg = np.where(inside, 3 if disc else 2, wall).astype(np.uint8)
    depth[:, 0], seg[:, 0] = np.nan, 255
    parts = {"rgb": rgb, "depth": depth, "seg": seg}
    return Sample(f"s{number:03d}", **{name: parts[name] for name in modalities})  # type: ignore[arg-type]


def context(directory: Path, inputs: dict[str, Path], seed: int = 0, world: World | None = None) -> Context:
    directory.mkdir(parents=True, exist_ok=True)
    return Context(
        "test", seed, directory, directory, inputs, world or World(), Progress("test", silent=True)
    )


def digests(directory: Path) -> dict[str, str]:
    """Of every file that a stage leaves; the parts it was made of are removed when it is committed."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory): path for path in files}
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not name.parts[0].startswith(".")
    }


def write_scenes(directory: Path, counts: dict[str, int]) -> Path:
    """A dataset; every fifth held-out scene lacks RGB."""
    splits = [split for split, count in counts.items() for _ in range(count)]
    samples = [
        (
            split,
            scene(
                number,
                split == "heldout",
                ("depth", "seg") if split == "heldout" and number % 5 == 0 else EVERYTHING,
            ),
        )
        for number, split in enumerate(splits)
    ]
    write_dataset(directory, samples, class_names=CLASS_NAMES, image_size=SIDE)
    return directory
