"""How fast scenes are rendered and samples are read, per core.

    python benchmarks/scenes.py [--json FILE] [--seconds S]

Rates are per second of processor time of one process, which other load on the machine disturbs
least, and per second of wall-clock time. The best of several rounds is reported.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypedDict

from pipeline.data.scenes.rooms import CLASS_NAMES as ROOM_CLASSES
from pipeline.data.scenes.rooms import FACTORS, draw_rooms
from pipeline.data.scenes.samples import RoomSamples, TabletopSamples
from pipeline.data.shards.dataset import write_dataset

ROUND = 16
READ_BATCH = 64


class Row(TypedDict):
    """One line of the table."""

    name: str
    image_size: int
    per_cpu_second: float
    per_wall_second: float


def rate(name: str, image_size: int, count: int, work: Callable[[], object], seconds: float) -> Row:
    """The best rate of `count` things per call over as many calls as fit into `seconds`."""
    work()
    best_cpu_s = best_wall_s = float("inf")
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        work()
        best_cpu_s = min(best_cpu_s, time.process_time() - cpu_s)
        best_wall_s = min(best_wall_s, time.perf_counter() - wall_s)
    return Row(
        name=name,
        image_size=image_size,
        per_cpu_second=count / best_cpu_s,
        per_wall_second=count / best_wall_s,
    )


def rendering(image_size: int, seconds: float) -> list[Row]:
    """Rooms and tabletops, antialiased, as `shard` renders them by default."""
    numbers = draw_rooms(ROUND, seed=0).tolist()
    rooms = RoomSamples(seed=0, nuisance=1.0, image_size=image_size)
    tabletops = TabletopSamples(seed=0, max_objects=6, image_size=image_size)
    return [
        rate("rooms rendered", image_size, ROUND, lambda: [rooms(number) for number in numbers], seconds),
        rate("tabletops rendered", image_size, ROUND, lambda: [tabletops(n) for n in range(ROUND)], seconds),
    ]


def reading(image_size: int, seconds: float) -> Row:
    """Samples decoded into training batches, files in the page cache."""
    import torch

    from pipeline.data.loader.dataset import ShardedDataset

    torch.set_num_threads(1)
    load = RoomSamples(seed=0, nuisance=1.0, image_size=image_size)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dataset"
        rooms = (("train", load(number)) for number in draw_rooms(2 * READ_BATCH, seed=0).tolist())
        write_dataset(
            path,
            rooms,
            class_names=ROOM_CLASSES,
            image_size=image_size,
            factors=FACTORS,
            depth_scale_m=0.0002,
        )
        dataset = ShardedDataset(path)
        order = dataset.order("train", seed=0)
        positions = iter(range(0, 10**9, READ_BATCH))

        def read() -> None:
            for position in islice(positions, 4):
                dataset.read("train", order.rows(position, READ_BATCH))

        row = rate("samples read", image_size, 4 * READ_BATCH, read, seconds)
        dataset.close()
    return row


def main() -> None:
    """Measure, print a table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the same numbers to this file")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each line (default 5)")
    arguments = parser.parse_args()
    rows = []
    print(f"{'':20}{'px':>5}{'per CPU second':>16}{'per second':>13}")
    for image_size in (64, 128):
        for row in [*rendering(image_size, arguments.seconds), reading(image_size, arguments.seconds)]:
            rows.append(row)
            print(
                f"{row['name']:20}{row['image_size']:5}{row['per_cpu_second']:16.0f}{row['per_wall_second']:13.0f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
