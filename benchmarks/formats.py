"""What each encoding of a sample costs: bytes on the disk, and time to read and to write.

    python benchmarks/formats.py [--sizes 64 128 256] [--config FILE] [--set KEY=VALUE] [--json FILE]

Measured on rooms and, with --config, on the samples of that config's source. Times are microseconds of one
process per sample, the best of several rounds; reading is from memory, as from the page cache. This
is what `data.encoding: auto` was chosen by.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.config.data import Data
from pipeline.data.modality import MODALITIES, Sample
from pipeline.data.shards.members import decode, encode_array
from pipeline.data.sources import open_source

ENCODINGS = {
    "npy": dict.fromkeys(MODALITIES, "npy"),
    "npy.zst": dict.fromkeys(MODALITIES, "npy.zst"),
    "png": dict.fromkeys(MODALITIES, "png"),
    "png + npy.zst": {"rgb": "png", "depth": "npy.zst", "seg": "npy.zst"},
    "jpg + npy.zst": {"rgb": "jpg", "depth": "npy.zst", "seg": "npy.zst"},
}
ROUNDS = 5


def some_samples(data: Data, count: int) -> tuple[list[Sample], float]:
    """Evenly spaced samples of a source, and the scale of its depth PNGs."""
    catalogue = open_source(data)
    step = max(1, len(catalogue.entries) // count)
    entries = [catalogue.entries[place] for place in range(0, len(catalogue.entries), step)][:count]
    return [
        sample for sample in catalogue.load(entries) if isinstance(sample, Sample)
    ], catalogue.depth_scale_m


def best_us(work: Callable[[], object], count: int) -> float:
    """Microseconds per sample of the fastest round."""
    times = []
    for _ in range(ROUNDS):
        started_s = time.process_time()
        work()
        times.append(time.process_time() - started_s)
    return min(times) / count * 1e6


def measured(name: str, samples: Sequence[Sample], scale_m: float) -> Iterator[dict[str, Any]]:
    """A row per encoding."""
    size = next(a.shape[0] for s in samples for a in (s.rgb, s.depth, s.seg) if a is not None)
    for encoding, suffixes in ENCODINGS.items():

        def encoded(suffixes: dict[str, str] = suffixes) -> list[tuple[str, str, bytes]]:
            return [
                (m, suffixes[m], encode_array(m, suffixes[m], getattr(sample, m), scale_m))
                for sample in samples
                for m in MODALITIES
                if getattr(sample, m) is not None
            ]

        members = encoded()

        def decoded(members: list[tuple[str, str, bytes]] = members) -> None:
            for modality, suffix, content in members:
                decode(modality, suffix, content, scale_m)

        yield {
            "samples": name,
            "image_size": size,
            "encoding": encoding,
            "bytes": sum(len(content) for _, _, content in members) / len(samples),
            "decode_us": best_us(decoded, len(samples)),
            "encode_us": best_us(encoded, len(samples)),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--config", type=Path, help="whose data to measure beside rooms")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources = {"rooms": Data.model_validate({"source": {"kind": "rooms", "count": 1000}})}
    if arguments.config:
        loaded = load_config(arguments.config, arguments.overrides)
        sources[loaded.name] = loaded.data
    rows = []
    heads = ("", "px", "encoding", "bytes", "decode us", "encode us")
    print("{:>12} {:>4}  {:<14} {:>8} {:>10} {:>10}".format(*heads))
    for name, data in sources.items():
        for size in arguments.sizes:
            samples, scale_m = some_samples(data.model_copy(update={"image_size": size}), arguments.samples)
            for row in measured(name, samples, scale_m):
                rows.append(row)
                cells = (row["samples"], row["image_size"], row["encoding"])
                numbers = (row["bytes"], row["decode_us"], row["encode_us"])
                print("{:>12} {:>4}  {:<14} {:>8,.0f} {:>10,.0f} {:>10,.0f}".format(*cells, *numbers))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
