"""A source of noise with whatever faults a test wants; importable by worker processes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from picture_folder import Spoken
from small_dataset import CLASSES, FACTORS, sample

from pipeline.config.data import Data
from pipeline.data.modality import Sample
from pipeline.data.refusal import Refused
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.orchestration.stage import Context, Manifest, World
from stages import shard

SIDE = 32


@dataclass(frozen=True)
class Noise:
    """A sample to be: its number, whose pixels it has, and what is wrong with it."""

    number: int
    pixels: int
    depth_factor: float = 1.0
    bad: bool = False

    def __str__(self) -> str:
        return f"source/{self.number}"


@dataclass(frozen=True)
class MakeNoise:
    """Makes the sample of one entry."""

    def __call__(self, entry: Noise) -> Sample:
        if entry.bad:
            raise Refused("spoiled", f"{entry} is spoiled", "throw it away")
        made = sample(entry.pixels, size=SIDE)
        assert made.depth is not None
        depth = (made.depth * np.float32(entry.depth_factor)).astype(np.float32)
        factors = {"hue": entry.number % 2, "size": entry.number % 3}
        return replace(made, key=f"n{entry.number:05d}", origin=str(entry), depth=depth, factors=factors)


def noise(count: int, **faults: Any) -> list[Noise]:
    """Entries 0, 1, ...; `bad={3}`, `copies={7: 2}` (7 has the pixels of 2), `far={5: 1000.0}`."""
    bad, copies, far = faults.get("bad", ()), faults.get("copies", {}), faults.get("far", {})
    return [Noise(n, copies.get(n, n), far.get(n, 1.0), n in bad) for n in range(count)]


def catalogue(entries: list[Noise], splits: list[str], **changes: Any) -> Catalogue:
    made = Catalogue(entries, splits, OneByOne(MakeNoise()), CLASSES, FACTORS, description={"kind": "noise"})
    return replace(made, **changes)


def config(**values: Any) -> Data:
    """Of any source: what counts here are the other fields."""
    settled = {"shard_samples": 6, "workers": 1, "max_bad_fraction": 0.5}
    return Data.model_validate({"source": {"kind": "rooms"}, "image_size": SIDE} | settled | values)


def run_noise(
    directory: Path,
    source: Catalogue,
    data: Data,
    *,
    rank: int = 0,
    size: int = 1,
    spoken: Spoken | None = None,
    **context: Any,
) -> Manifest:
    """Run the stage, or one process of it, on such a source."""
    directory.mkdir(parents=True, exist_ok=True)
    opened, shard.open_source = shard.open_source, lambda _: source
    try:
        world = World(rank, size, rank, size)
        told = spoken or Spoken()
        return shard.run(data, Context("t", 0, directory.parent, directory, {}, world, told, **context))
    finally:
        shard.open_source = opened
