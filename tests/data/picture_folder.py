"""Folders of pictures such as people have, for tests to spoil."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import Data
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest, World
from stages import shard

HEIGHT, WIDTH = 48, 64


class Spoken(Progress):
    """A progress that remembers what it said."""

    def __init__(self) -> None:
        super().__init__("shard", silent=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def rgb_picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)


def depth_mm(number: int) -> np.ndarray:
    """Two surfaces, at 1 and 2 m, and a hole."""
    depth = np.full((HEIGHT, WIDTH), 1000, np.uint16)
    depth[:, WIDTH // 2 :] = 2000
    depth[10:14, 20:24] = 0
    depth[0, 0] = 1000 + number
    return depth


def labels(number: int) -> np.ndarray:
    seg = np.zeros((HEIGHT, WIDTH), np.uint8)
    seg[:, WIDTH // 2 :] = 1 + number % 2
    seg[:8, :8] = 255
    return seg


def make_folder(root: Path, count: int = 10) -> Path:
    """rgb/, depth/ and seg/ with frame_0, frame_1, ..."""
    for modality in ("rgb", "depth", "seg"):
        (root / modality).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rgb_picture(number)).save(root / "rgb" / f"frame_{number}.png")
        Image.fromarray(depth_mm(number)).save(root / "depth" / f"frame_{number}.png")
        Image.fromarray(labels(number)).save(root / "seg" / f"frame_{number}.png")
    return root


def folder_config(root: Path, *, data: dict[str, Any] | None = None, **source: Any) -> Data:
    """A config of the folder as `make_folder` makes it."""
    described = {
        "kind": "folder",
        "root": str(root),
        "depth": {"unit": "mm"},
        "classes": ("floor", "cup", "box"),
    }
    return Data.model_validate(
        {"source": described | source, "image_size": 32, "test_fraction": 0.2, "workers": 1} | (data or {})
    )


def run_shard(config: Data, directory: Path, progress: Progress | None = None) -> Manifest:
    """Run the stage into a directory."""
    spoken = progress or Spoken()
    directory.mkdir(parents=True, exist_ok=True)
    return shard.run(config, Context("test", 0, directory.parent, directory, {}, World(), spoken))
