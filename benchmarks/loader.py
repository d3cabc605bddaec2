"""How fast samples come out of a dataset, beside webdataset, MosaicML Streaming and LitData.

    python benchmarks/loader.py [--sizes 64 256] [--workers 1 2] [--rounds 5] [--quick] [--json FILE]

Every contestant delivers the same shuffled samples as collated tensors (RGB uint8, depth float32, labels
uint8), from local files in its own format, which lie in the page cache. `triptych` and `webdataset` read the
same tars, stored as `data.encoding: auto` stores them; `triptych, arrays` reads plain arrays, as Streaming
and LitData do. `triptych, kept` has all decoded samples in memory. Contestants take turns, round after round,
and medians count. CPU time is that of all processes. Peers that are not installed (benchmarks/peers.txt) are
left out. The last line is what copying the same bytes out of the page cache takes, without anything else.
"""

import argparse
import importlib.machinery
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from pipeline.config.training import Loading
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import decode_sample, write_dataset

CLASSES = tuple(f"class{number}" for number in range(12))
MODALITIES = ("rgb", "depth", "seg")


@dataclass(frozen=True)
class Trial:
    """How much is read, and how.

    Attributes:
        size: Pictures' height and width.
        samples: In the dataset.
        batch: Samples per batch.
        warm: Batches before the clock starts.
        timed: Batches while it runs.
    """

    size: int
    samples: int
    batch: int
    warm: int
    timed: int


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
    parser.add_argument("--directory", type=Path, help="where the datasets lie or are written")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _stand_in_for_unneeded()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in arguments.sizes:
            trial = _trial(size, quick=arguments.quick)
            home = (arguments.directory or Path(temporary)) / str(size)
            prepare(home, trial)
            results += measure(home, trial, arguments.workers, 1 if arguments.quick else arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def measure(home: Path, trial: Trial, workers: list[int], rounds: int) -> list[dict[str, Any]]:
    """Medians over rounds in which every contestant has its turn."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for (name, contestant), count in itertools.product(contestants().items(), workers):
            rates.setdefault((name, count), []).append(_rates(partial(contestant, home, trial, count), trial))
        rates.setdefault(("page cache", 0), []).append(_copying(home, trial))
    print(
        f"\n{trial.size} px, {trial.samples} samples, batches of {trial.batch}, {os.cpu_count()} processors"
    )
    print(f"{'':20}{'workers':>8}{'samples/s':>12}{'per CPU-s':>12}{'x webdataset':>14}")
    rows = []
    for (name, count), measured in rates.items():
        wall, cpu = (statistics.median(values) for values in zip(*measured, strict=True))
        reference = rates.get(("webdataset", count))
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


def contestants() -> dict[str, Contestant]:
    """Those that are installed."""
    chosen: dict[str, Contestant] = {
        "triptych": partial(triptych, "auto", 0.0),
        "triptych, arrays": partial(triptych, "npy", 0.0),
        "triptych, kept": partial(triptych, "npy", 64.0),
        "webdataset": webdataset,
    }
    if importlib.util.find_spec("streaming"):
        chosen["streaming"] = streaming
    if importlib.util.find_spec("litdata"):
        chosen["litdata"] = litdata
    return chosen


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


def webdataset(home: Path, trial: Trial, workers: int) -> Iterator[Any]:
    """Its own shuffled pipeline, with our decoder."""
    import webdataset as wds

    urls = sorted(str(path) for path in (home / "auto").glob("train-*.tar"))
    dataset = (
        wds
        .WebDataset(
            urls, shardshuffle=len(urls), seed=0, nodesplitter=None, workersplitter=wds.split_by_worker
        )
        .repeat()
        .shuffle(1000)
        .map(_decoded)
        .batched(trial.batch, collation_fn=_collated)
    )
    yield from wds.WebLoader(dataset, batch_size=None, num_workers=workers)


def streaming(home: Path, trial: Trial, workers: int) -> Iterator[Any]:
    """MosaicML Streaming with its default shuffle."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(home / "streaming"), shuffle=True, batch_size=trial.batch)
    for _ in itertools.count():
        yield from DataLoader(dataset, batch_size=trial.batch, num_workers=workers, collate_fn=_collated)


def litdata(home: Path, trial: Trial, workers: int) -> Iterator[Any]:
    """LitData with its default shuffle."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(home / "litdata"), shuffle=True)
    for _ in itertools.count():
        yield from StreamingDataLoader(
            dataset, batch_size=trial.batch, num_workers=workers, collate_fn=_collated
        )


def prepare(home: Path, trial: Trial) -> None:
    """Write the same samples in every format."""
    for encoding in ("auto", "npy"):
        if not (home / encoding / "dataset.json").exists():
            write_dataset(
                home / encoding,
                (("train", sample) for sample in scenes(trial)),
                class_names=CLASSES,
                image_size=trial.size,
                encoding=encoding,
                shard_samples=max(32, trial.samples // 16),
            )
    if importlib.util.find_spec("streaming") and not (home / "streaming").exists():
        from streaming import MDSWriter

        shapes = {"rgb": "uint8:{0},{0},3", "depth": "float32:{0},{0}", "seg": "uint8:{0},{0}"}
        columns = {name: f"ndarray:{shape.format(trial.size)}" for name, shape in shapes.items()}
        with MDSWriter(out=str(home / "streaming"), columns=columns) as writer:
            for sample in scenes(trial):
                writer.write(_arrays(sample))
    if importlib.util.find_spec("litdata") and not (home / "litdata").exists():
        from litdata.streaming import Cache

        cache = Cache(str(home / "litdata"), chunk_bytes="64MB")
        for number, sample in enumerate(scenes(trial)):
            cache[number] = _arrays(sample)
        cache.done()
        cache.merge()


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
    found = {name: (batch[name].dtype, tuple(batch[name].shape)) for name in MODALITIES}
    flat = (trial.batch, trial.size, trial.size)
    wanted = {"rgb": (torch.uint8, (*flat, 3)), "depth": (torch.float32, flat), "seg": (torch.uint8, flat)}
    assert found == wanted, f"{found} is not what the others deliver"


def _decoded(sample: dict[str, Any]) -> dict[str, Any]:
    decoded = decode_sample(sample)
    return {name: decoded[name] for name in MODALITIES}


def _collated(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.stack([np.asarray(sample[name]) for sample in samples]))
        for name in MODALITIES
    }


def _arrays(sample: Sample) -> dict[str, Any]:
    return {"rgb": sample.rgb, "depth": sample.depth, "seg": sample.seg}


def _stand_in_for_unneeded() -> None:
    """Modules that Streaming imports, but not for what is done here."""
    wanted = {
        "transformers": (),
        "transformers.feature_extraction_utils": ("BatchFeature",),
        "transformers.tokenization_utils_base": ("BatchEncoding",),
        "transformers.models": (),
        "transformers.models.auto": (),
        "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
        "torchvision": (),
        "torchvision.datasets": ("VisionDataset", "CIFAR10"),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": ("to_tensor",),
        "catalogue": (),
    }
    missing = {
        name for name in ("transformers", "torchvision", "catalogue") if not importlib.util.find_spec(name)
    }
    for name, classes in wanted.items():
        if name.partition(".")[0] in missing:
            module = types.ModuleType(name)
            module.__path__ = []
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            for one in classes:
                setattr(module, one, type(one, (), {}))
            sys.modules[name] = module


if __name__ == "__main__":
    main()
