"""Read training batches as one rank would, write down every sample, and be killed with all workers alive.

    python data_once.py DIRECTORY OUT --rank R --size W --workers N --seen S --steps T [--mixed]

`DIRECTORY` holds the datasets `own` and `other`.
"""

import argparse
import os
import signal
import zlib
from itertools import islice
from pathlib import Path

import torch

from pipeline.config.training import Augment, Loading, MixedDataset
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset

BATCH = 8
AUGMENT = Augment(flip=0.5, crop=0.6, brightness=0.3)


def read(
    directory: Path,
    *,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    seen: int = 0,
    steps: int,
    mixed: bool = False,
    streams: int = 1,
    cache_gib: float = 0.0,
    die_into: Path | None = None,
) -> list[list[str]]:
    """Per step, this rank's samples: key, number, and a checksum of its pixels as augmented."""
    batches = training_batches(
        ShardedDataset(directory / "own"),
        "train",
        seed=5,
        global_batch=BATCH,
        samples_seen=seen,
        world_rank=rank,
        world_size=size,
        loading=Loading(workers=workers, streams=streams, cache_gib=cache_gib),
        augment=AUGMENT,
        mix=[MixedDataset(dataset=directory / "other", weight=0.5)] if mixed else [],
    )
    taken = []
    for batch in islice(batches, steps):
        pixels = [
            zlib.crc32(b"".join(values[row].numpy().tobytes() for values in batch.value.values()))
            for row in range(len(batch))
        ]
        numbers = batch.index.tolist()
        taken.append([
            f"{key} {number} {crc}" for key, number, crc in zip(batch.key, numbers, pixels, strict=True)
        ])
    if die_into:
        die_into.write_text("\n".join("\t".join(samples) for samples in taken))
        os.kill(os.getpid(), signal.SIGKILL)
    batches.close()
    return taken


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    for name in ("rank", "size", "workers", "seen", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--mixed", action="store_true")
    options = vars(parser.parse_args())
    out = options.pop("out")
    read(**options, die_into=out)
