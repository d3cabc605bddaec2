"""How long sharding a folder of pictures takes, beside merely decoding and encoding them.

    python benchmarks/shard.py [--samples 1000] [--source 640x480] [--sizes 64 256] [--workers 2] [--runs 3]
                               [--pictures DIR] [--memory] [--json FILE]

A folder of PNGs (RGB, 16-bit depth, labels) is made and read twice, in turns, on the same cores, by the same
number of worker processes: by the shard stage, to a dataset on the disk; and by a loop that decodes the same
files with Pillow, scales them with Pillow, encodes the arrays as the dataset has them, and forgets them.
Each run is a process of its own, so whatever is loaded or started on first use counts every time; only the
imports at the top of this file do not. Seconds are medians over runs. CPU seconds are those of all processes:
on a machine that others use as well, compare these. `fixed` is what the stage takes for the first 32 samples.
`--pictures` keeps the folder for another time. `--memory` measures how much the peak memory of the stage
grows per sample, with many tiny samples.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import Data
from pipeline.data.modality import MODALITIES, Sample
from pipeline.data.parallel import ordered_map
from pipeline.data.refusal import Refusal
from pipeline.data.shards.members import encode_array, encodings_for
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, World
from stages import shard

TINY, FEW, MANY = 32, 16_000, 64_000
FIRST = 32
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class MakePictures:
    """Pictures with large shapes and a camera's noise, so that PNG has to work as usual."""

    root: str
    width: int
    height: int

    def __call__(self, number: int) -> None:
        """Write those of one sample."""
        rng, width, height = np.random.default_rng(number), self.width, self.height
        rough = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        rgb = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        rgb = np.clip(rgb + rng.integers(-6, 7, rgb.shape), 0, 255).astype(np.uint8)
        depth = Image.fromarray(rng.integers(500, 4000, (9, 12)).astype(np.float32)).resize((width, height))
        depth_mm = (np.asarray(depth) + rng.integers(-3, 4, (height, width))).astype(np.uint16)
        seg = np.kron(rng.integers(0, 5, (9, 12)), np.ones((height // 9 + 1, width // 12 + 1)))
        pictures = {"rgb": rgb, "depth": depth_mm, "seg": seg[:height, :width].astype(np.uint8)}
        for modality, picture in pictures.items():
            Image.fromarray(picture).save(f"{self.root}/{modality}/{number:06d}.png", compress_level=6)


def make_apart(root: Path, count: int, source: str, workers: int) -> None:
    """`make_folder` in a process of its own, whose pool leaves nothing for `one_run` to wait for."""
    command = [sys.executable, __file__, "--one", "make", "--pictures", str(root), "--samples", str(count)]
    subprocess.run([*command, "--source", source, "--workers", str(workers)], check=True)


def make_folder(root: Path, count: int, source: str, workers: int) -> None:
    """Make what is missing of a folder of so many samples."""
    width, height = map(int, source.split("x"))
    for modality in MODALITIES:
        (root / modality).mkdir(parents=True, exist_ok=True)
    missing = [
        number for number in range(count) if not (root / MODALITIES[-1] / f"{number:06d}.png").exists()
    ]
    for _ in ordered_map(MakePictures(str(root), width, height), missing, workers):
        pass


def first_of(root: Path, count: int, part: Path) -> Path:
    """A folder of the first samples of another."""
    for modality in MODALITIES:
        (part / modality).mkdir(parents=True)
        for number in range(count):
            name = f"{number:06d}.png"
            (part / modality / name).hardlink_to(root / modality / name)
    return part


def config(root: Path, image_size: int, workers: int) -> Data:
    """The folder as a person would describe it."""
    source = {"kind": "folder", "root": str(root), "depth": {"unit": "mm"}, "classes": list("abcde")}
    return Data.model_validate({"source": source, "image_size": image_size, "workers": workers})


def sharding(data: Data) -> None:
    """The stage, to a dataset that is forgotten."""
    with tempfile.TemporaryDirectory() as directory:
        run_stage(data, Path(directory))


def run_stage(data: Data, directory: Path) -> None:
    """The shard stage alone, silent."""
    context = Context("bench", 0, directory, directory, {}, World(), Progress("shard", silent=True))
    shard.run(data, context)


@dataclass(frozen=True)
class DecodeAndEncode:
    """Nothing but that."""

    root: str
    image_size: int

    def __call__(self, numbers: Sequence[int]) -> int:
        """How many bytes some samples become."""
        suffixes = encodings_for("auto", self.image_size)
        total = 0
        for number in numbers:
            for modality in MODALITIES:
                with Image.open(f"{self.root}/{modality}/{number:06d}.png") as image:
                    array = self._scaled(modality, image)
                array = array * np.float32(0.001) if modality == "depth" else array
                total += len(encode_array(modality, suffixes[modality], array, 0.001))
        return total

    def _scaled(self, modality: str, image: Image.Image) -> Any:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        how = Image.Resampling.BOX if modality == "rgb" else Image.Resampling.NEAREST
        size = (self.image_size, self.image_size)
        return np.asarray(image.resize(size, how, box=(left, top, left + side, top + side)))


def decoding(root: Path, count: int, image_size: int, workers: int) -> None:
    """Merely decode and encode."""
    chunks = [range(first, min(first + shard.CHUNK, count)) for first in range(0, count, shard.CHUNK)]
    for _ in ordered_map(DecodeAndEncode(str(root), image_size), chunks, workers):
        pass


@dataclass(frozen=True)
class Took:
    """What one run took: seconds, and seconds of processors by all its processes."""

    wall_s: float
    cpu_s: float


def one_run(what: str, root: Path, count: int, image_size: int, workers: int) -> Took:
    """Do it in a process of its own, whose own descendants are waited for as well."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = [sys.executable, __file__, "--one", what, "--pictures", str(root), "--samples", str(count)]
    command += ["--sizes", str(image_size), "--workers", str(workers)]
    before_s = _cpu_of_children_s()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    wall_s, imports_cpu_s = map(float, done.stdout.split())
    return Took(wall_s, _cpu_of_children_s() - before_s - imports_cpu_s)


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def print_one(arguments: argparse.Namespace) -> None:
    """In that process: seconds, and what imports had taken of a processor before."""
    if arguments.one == "make":
        make_folder(arguments.pictures, arguments.samples, arguments.source, arguments.workers)
        return
    imports_cpu_s, started_s = time.process_time(), time.perf_counter()
    root, size = arguments.pictures, arguments.sizes[0]
    if arguments.one == "shard":
        sharding(config(root, size, arguments.workers))
    else:
        decoding(root, arguments.samples, size, arguments.workers)
    print(time.perf_counter() - started_s, imports_cpu_s)


def compare(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Both, in turns, at every size."""
    count, workers = arguments.samples, arguments.workers
    rows = []
    beside = arguments.pictures.parent if arguments.pictures else None
    with tempfile.TemporaryDirectory(dir=beside) as directory:
        root = Path(directory) / "all"
        if arguments.pictures:
            make_apart(arguments.pictures, count, arguments.source, workers)
            first_of(arguments.pictures, count, root)
        else:
            make_apart(root, count, arguments.source, workers)
        few = first_of(root, FIRST, Path(directory) / "few")
        for size in arguments.sizes:
            ours, merely, fixed = [], [], []
            for _ in range(arguments.runs):
                merely.append(one_run("decode", root, count, size, workers))
                ours.append(one_run("shard", root, count, size, workers))
                fixed.append(one_run("shard", few, FIRST, size, workers))
            rows.append({"image_size": size, **_summary(ours, merely, fixed, count)})
    return rows


def _summary(
    ours: Sequence[Took], merely: Sequence[Took], fixed: Sequence[Took], count: int
) -> dict[str, float]:
    shard_s, shard_cpu_s = _medians(ours)
    decode_s, decode_cpu_s = _medians(merely)
    fixed_s, fixed_cpu_s = _medians(fixed)
    return {
        "shard_s": shard_s,
        "decode_encode_s": decode_s,
        "ratio": shard_s / decode_s,
        "shard_cpu_s": shard_cpu_s,
        "decode_encode_cpu_s": decode_cpu_s,
        "cpu_ratio": shard_cpu_s / decode_cpu_s,
        "fixed_s": fixed_s,
        "fixed_cpu_s": fixed_cpu_s,
        "samples_per_s": count / shard_s,
        "samples_per_cpu_s": count / shard_cpu_s,
    }


def _medians(runs: Sequence[Took]) -> tuple[float, float]:
    return statistics.median(run.wall_s for run in runs), statistics.median(run.cpu_s for run in runs)


class TinySamples:
    """Samples that cost next to nothing to make."""

    def __call__(self, entries: Sequence[int]) -> Iterator[Sample | Refusal]:
        """A sample per number."""
        for entry in entries:
            rgb = np.full((TINY, TINY, 3), entry % 251, np.uint8)
            rgb[0, :4, 0] = np.frombuffer(np.uint32(entry).tobytes(), np.uint8)
            yield Sample(f"{entry:08d}", rgb=rgb, origin=str(entry))


def peak_bytes(count: int) -> int:
    """Peak memory of a process that shards so many tiny samples."""
    code = f"import sys; sys.path.insert(0, 'benchmarks'); import shard; shard.shard_tiny({count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def shard_tiny(count: int) -> None:
    """Shard tiny samples in this process and print its peak memory."""
    from pipeline.data.sources.catalogue import Catalogue

    splits = ["train" if number % 10 else "test" for number in range(count)]
    catalogue = Catalogue(range(count), splits, TinySamples(), None)
    shard.open_source = lambda config: catalogue
    directory = Path(tempfile.mkdtemp())
    try:
        run_stage(
            Data.model_validate({"source": {"kind": "rooms"}, "image_size": TINY, "workers": 1}), directory
        )
    finally:
        shutil.rmtree(directory)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def show(rows: list[dict[str, float]]) -> None:
    """A table."""
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "px": lambda row: f"{row['image_size']:.0f}",
        "shard s": lambda row: f"{row['shard_s']:.2f}",
        "decode + encode s": lambda row: f"{row['decode_encode_s']:.2f}",
        "ratio": lambda row: f"{row['ratio']:.2f}",
        "shard CPU s": lambda row: f"{row['shard_cpu_s']:.2f}",
        "d + e CPU s": lambda row: f"{row['decode_encode_cpu_s']:.2f}",
        "CPU ratio": lambda row: f"{row['cpu_ratio']:.2f}",
        "fixed s": lambda row: f"{row['fixed_s']:.2f}",
        "samples/s": lambda row: f"{row['samples_per_s']:.0f}",
        "samples/CPU s": lambda row: f"{row['samples_per_cpu_s']:.0f}",
    }
    print("  ".join(f"{name:>17}" for name in columns))
    for row in rows:
        print("  ".join(f"{text(row):>17}" for text in columns.values()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--source", default="640x480", help="width x height of the pictures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="image sizes of the dataset")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="where the pictures are kept")
    parser.add_argument("--one", choices=["make", "shard", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help="only measure memory per sample")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print_one(arguments)
        return
    result: dict[str, Any] = {"samples": arguments.samples, "source": arguments.source}
    if arguments.memory:
        few, many = peak_bytes(FEW), peak_bytes(MANY)
        result["bytes_per_sample"] = (many - few) / (MANY - FEW)
        print(
            f"peak memory: {few / 1e6:.0f} MB for {FEW:,} samples, {many / 1e6:.0f} MB for {MANY:,}: "
            f"{result['bytes_per_sample']:.0f} bytes per sample"
        )
    else:
        result["rows"] = compare(arguments)
        show(result["rows"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
