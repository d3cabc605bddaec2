"""How fast samples come out of a dataset, beside webdataset, MosaicML Streaming and LitData.

    python benchmarks/loader.py [--sizes 64 256] [--workers 1 2] [--rounds 5] [--config FILE] [--json FILE]

Every contestant delivers the same shuffled samples as collated tensors (RGB uint8, depth float32, labels
uint8), from local files in its own format, which lie in the page cache. What a sample is stored as has two
arms: plain `arrays`, and `auto`, the bytes of `data.encoding: auto`, which peers decode with our decoder (up
to 64 px both are the same). `kept` has all decoded samples in memory. Contestants take turns, round after
round, and medians count. CPU time is that of all processes. Peers that are not installed
(benchmarks/peers.txt) are left out. The last line is what copying plain arrays out of the page cache takes,
without anything else.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import loader_peers as peers
import numpy as np
import psutil
import torch
from formats import some_samples

from pipeline.config import load_config
from pipeline.config.data import Data
from pipeline.config.training import Loading
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset
from pipeline.data.shards.members import LARGEST_NPY, encodings_for

CLASSES = tuple(f"class{number}" for number in range(12))
PEERS = ("webdataset", "streaming", "litdata")


@dataclass(frozen=True)
class Trial:
    """How much is read, and how.

    Attributes:
        size: Pictures' height and width.
        samples: In the dataset.
        batch: Samples per batch.
        warm: Batches before the clock starts.
        timed: Batches while it runs.
        data: Where samples come from; None: drawn here.
    """

    size: int
    samples: int
    batch: int
    warm: int
    timed: int
    data: Data | None = None


Contestant = Callable[[Path, Trial, int], Iterator[Any]]


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of little data")
    parser.add_argument("--config", type=Path, help="whose pictures to take instead of drawn scenes")
    parser.add_argument("--directory", type=Path, help="where the datasets lie or are written")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers.stand_in_for_unneeded()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in arguments.sizes:
            trial = _trial(size, quick=arguments.quick)
            if arguments.config:
                data = load_config(arguments.config).data.model_copy(update={"image_size": size})
                trial = replace(trial, data=data)
            home = (arguments.directory or Path(temporary)) / str(size)
            prepare(home, trial)
            results += measure(home, trial, arguments.workers, 1 if arguments.quick else arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def measure(home: Path, trial: Trial, workers: list[int], rounds: int) -> list[dict[str, Any]]:
    """Medians over rounds in which every contestant has its turn."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for (name, contestant), count in itertools.product(contestants(trial.size).items(), workers):
            rates.setdefault((name, count), []).append(_rates(partial(contestant, home, trial, count), trial))
        rates.setdefault(("page cache", 0), []).append(_copying(home, trial))
    print(
        f"\n{trial.size} px, {trial.samples} samples, batches of {trial.batch}, {os.cpu_count()} processors"
    )
    print(f"{'':20}{'workers':>8}{'samples/s':>12}{'per CPU-s':>12}{'x webdataset':>14}")
    rows = []
    for (name, count), measured in rates.items():
        wall, cpu = (statistics.median(values) for values in zip(*measured, strict=True))
        reference = rates.get((f"webdataset, {name.rpartition(', ')[2]}", count))
        ratio = wall / statistics.median(rate for rate, _ in reference) if reference else float("nan")
        print(f"{name:20}{count:8}{wall:12.0f}{cpu:12.0f}{ratio:14.2f}")
        rows.append({
            "image_size": trial.size,
            "contestant": name,
            "workers": count,
            "samples_per_s": wall,
            "samples_per_cpu_s": cpu,
            "times_webdataset": ratio if reference else None,
            "rounds": [rate for rate, _ in measured],
        })
    return rows


def contestants(size: int) -> dict[str, Contestant]:
    """Those that are installed, each once per encoding."""
    chosen: dict[str, Contestant] = {}
    for encoding in encodings(size):
        chosen[f"triptych, {encoding}"] = partial(triptych, encoding, 0.0)
        for name in PEERS:
            if peers.installed(name):
                chosen[f"{name}, {encoding}"] = partial(peer, name, encoding)
    return chosen | {"triptych, kept": partial(triptych, "auto", 64.0)}


def encodings(size: int) -> tuple[str, ...]:
    """What samples are stored as at an image size."""
    return ("auto",) if size <= LARGEST_NPY else ("auto", "npy")


def triptych(encoding: str, cache_gib: float, home: Path, trial: Trial, workers: int) -> Iterator[Any]:
    """Ours, in exact order."""
    batches = training_batches(
        ShardedDataset(home / encoding),
        "train",
        seed=0,
        global_batch=trial.batch,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        loading=Loading(workers=workers, cache_gib=cache_gib),
    )
    with closing(batches):
        for _ in range(trial.samples // trial.batch if cache_gib else 0):
            next(batches)
        yield from (batch.value for batch in batches)


def peer(name: str, encoding: str, home: Path, trial: Trial, workers: int) -> Iterator[Any]:
    """Another loader over the same samples."""
    suffixes = encodings_for(encoding, trial.size)
    match name:
        case "webdataset":
            return peers.webdataset(home / encoding, trial.batch, workers)
        case "streaming":
            return peers.streaming(home / f"{name}-{encoding}", suffixes, trial.batch, workers)
        case _:
            return peers.litdata(home / f"{name}-{encoding}", suffixes, trial.batch, workers)


def prepare(home: Path, trial: Trial) -> None:
    """Write the same samples in every format."""
    for encoding in {*encodings(trial.size), "npy"}:
        if not (home / encoding / "dataset.json").exists():
            write_dataset(
                home / encoding,
                (("train", sample) for sample in samples_of(trial)),
                class_names=CLASSES,
                image_size=trial.size,
                encoding=encoding,
                shard_samples=max(32, trial.samples // 16),
            )
    for name, encoding in itertools.product(PEERS[1:], encodings(trial.size)):
        directory = home / f"{name}-{encoding}"
        if peers.installed(name) and not directory.exists():
            write = peers.prepare_streaming if name == "streaming" else peers.prepare_litdata
            write(directory, samples_of(trial), encodings_for(encoding, trial.size))


def samples_of(trial: Trial) -> Iterator[Sample]:
    """Scenes, or the pictures of a config's source, over and over."""
    if trial.data is None:
        yield from scenes(trial)
        return
    pictures, _ = some_samples(trial.data, trial.samples)
    for number, picture in enumerate(itertools.islice(itertools.cycle(pictures), trial.samples)):
        yield replace(picture, key=f"s{number:06d}")


def scenes(trial: Trial) -> Iterator[Sample]:
    """Smooth shapes with a little noise, so that they compress about as pictures do."""
    size = trial.size
    across, down = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    for number in range(trial.samples):
        rng = np.random.default_rng(number)
        x, y, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.4)
        inside = np.hypot(across - x, down - y) < radius
        colour = np.where(inside[..., None], rng.uniform(0, 200, 3), rng.uniform(0, 200, 3) * down[..., None])
        depth = np.where(inside, 2.0, 4.0 + across)
        yield Sample(
            key=f"s{number:06d}",
            rgb=np.clip(colour + rng.normal(0, 3, (size, size, 3)), 0, 255).astype(np.uint8),
            depth=np.round(depth + rng.normal(0, 0.004, (size, size)), 3).astype(np.float32),
            seg=np.where(inside, number % 11 + 1, 0).astype(np.uint8),
        )


def _trial(size: int, *, quick: bool) -> Trial:
    if size <= 64:
        return Trial(size, 1024, 64, 4, 10) if quick else Trial(size, 8192, 64, 12, 60)
    return Trial(size, 128, 16, 2, 5) if quick else Trial(size, 640, 32, 4, 15)


def _rates(start: Callable[[], Iterator[Any]], trial: Trial) -> tuple[float, float]:
    """Samples per second and per CPU-second of all processes."""
    batches = start()
    for _ in range(trial.warm):
        _refuse_unlike(next(batches), trial)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(trial.timed):
        next(batches)
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    if hasattr(batches, "close"):
        batches.close()
    return trial.timed * trial.batch / wall, trial.timed * trial.batch / max(cpu, 1e-9)


def _copying(home: Path, trial: Trial) -> tuple[float, float]:
    """The page cache's own limit: whole tars of plain arrays into memory."""
    buffer = bytearray(1 << 20)
    tars = sorted((home / "npy").glob("*.tar"))
    wall, cpu = time.perf_counter(), _cpu_seconds()
    for tar in tars:
        with tar.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return trial.samples / (time.perf_counter() - wall), trial.samples / max(_cpu_seconds() - cpu, 1e-9)


def _cpu_seconds() -> float:
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _refuse_unlike(batch: Any, trial: Trial) -> None:
    found = {name: (batch[name].dtype, tuple(batch[name].shape)) for name in peers.MODALITIES}
    flat = (trial.batch, trial.size, trial.size)
    wanted = {"rgb": (torch.uint8, (*flat, 3)), "depth": (torch.float32, flat), "seg": (torch.uint8, flat)}
    assert found == wanted, f"{found} is not what the others deliver"


if __name__ == "__main__":
    main()
