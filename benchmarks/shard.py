"""How long sharding a folder of pictures takes, beside merely decoding and encoding them.

    python benchmarks/shard.py [--samples 400] [--source 640x480] [--sizes 64 256] [--workers 2] [--runs 3]
                               [--memory] [--json FILE]

A folder of PNGs (RGB, 16-bit depth, labels) is made and read twice, in turns, on the same cores, by the same
number of worker processes: by the shard stage, to a dataset on the disk; and by a loop that decodes the same
files with Pillow, scales them with Pillow, encodes the arrays as the dataset has them, and forgets them.
Times are medians over runs and include the start of processes. `--memory` measures how much the peak memory
of the stage grows per sample, with many tiny samples.
"""

import argparse
import json
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


def make_folder(root: Path, count: int, width: int, height: int) -> None:
    """Pictures with large shapes and a camera's noise, so that PNG has to work as usual."""
    rng = np.random.default_rng(0)
    for modality in MODALITIES:
        (root / modality).mkdir(parents=True)
    for number in range(count):
        rough = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        rgb = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        rgb = np.clip(rgb + rng.integers(-6, 7, rgb.shape), 0, 255).astype(np.uint8)
        depth = Image.fromarray(rng.integers(500, 4000, (9, 12)).astype(np.float32)).resize((width, height))
        depth_mm = (np.asarray(depth) + rng.integers(-3, 4, (height, width))).astype(np.uint16)
        seg = np.kron(rng.integers(0, 5, (9, 12)), np.ones((height // 9 + 1, width // 12 + 1)))
        pictures = {"rgb": rgb, "depth": depth_mm, "seg": seg[:height, :width].astype(np.uint8)}
        for modality, picture in pictures.items():
            Image.fromarray(picture).save(root / modality / f"{number:06d}.png", compress_level=6)


def config(root: Path, image_size: int, workers: int) -> Data:
    """The folder as a person would describe it."""
    source = {"kind": "folder", "root": str(root), "depth": {"unit": "mm"}, "classes": list("abcde")}
    return Data.model_validate({"source": source, "image_size": image_size, "workers": workers})


def sharding(data: Data) -> float:
    """Seconds that the stage takes."""
    with tempfile.TemporaryDirectory() as directory:
        started_s = time.perf_counter()
        run_stage(data, Path(directory))
        return time.perf_counter() - started_s


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


def decoding(root: Path, count: int, image_size: int, workers: int) -> float:
    """Seconds that decoding and encoding take."""
    chunks = [range(first, min(first + shard.CHUNK, count)) for first in range(0, count, shard.CHUNK)]
    started_s = time.perf_counter()
    for _ in ordered_map(DecodeAndEncode(str(root), image_size), chunks, workers):
        pass
    return time.perf_counter() - started_s


def compare(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Both, in turns, at every size."""
    width, height = map(int, arguments.source.split("x"))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "pictures"
        make_folder(root, arguments.samples, width, height)
        for size in arguments.sizes:
            ours, merely = [], []
            for _ in range(arguments.runs):
                merely.append(decoding(root, arguments.samples, size, arguments.workers))
                ours.append(sharding(config(root, size, arguments.workers)))
            shard_s, decode_s = statistics.median(ours), statistics.median(merely)
            rows.append({
                "image_size": size,
                "shard_s": shard_s,
                "decode_encode_s": decode_s,
                "ratio": shard_s / decode_s,
                "samples_per_s": arguments.samples / shard_s,
            })  # fmt: skip
    return rows


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
        "samples/s": lambda row: f"{row['samples_per_s']:.0f}",
    }
    print("  ".join(f"{name:>17}" for name in columns))
    for row in rows:
        print("  ".join(f"{text(row):>17}" for text in columns.values()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--source", default="640x480", help="width x height of the pictures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="image sizes of the dataset")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="only measure memory per sample")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
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
