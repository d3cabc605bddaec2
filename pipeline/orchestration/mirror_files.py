"""What of a run directory belongs into MLflow. Reads only, and tolerates a stage at work."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config, key_values
from pipeline.errors import InputError
from pipeline.orchestration.ledger import METRICS, TIMING, Record, read_record
from pipeline.orchestration.stage import StageName

HISTORY = "history.jsonl"
TRAVERSAL = "traversal"
PICTURES_CARD = "at a glance"
"""Section of the picture grids on a run's page; sections are sorted, and this comes before all metrics."""

THUMBNAIL_PIXELS = 256


@dataclass(frozen=True)
class Picture:
    """An image shown on the run's page, under a key and at a position of its slider.

    Attributes:
        key: Name of the card, such as `traversal/z07`.
        step: Position on the slider.
        path: The PNG.
    """

    key: str
    step: int
    path: Path

    @property
    def name(self) -> str:
        """What the cursor calls it."""
        return f"{self.key}@{self.step}"


@dataclass(frozen=True)
class Artifact:
    """A file kept with the run.

    Attributes:
        path: The file.
        folder: Where it goes among the run's artifacts; empty: at the top.
    """

    path: Path
    folder: str

    @property
    def name(self) -> str:
        """What the cursor calls it."""
        return f"{self.folder}/{self.path.name}" if self.folder else self.path.name


@dataclass(frozen=True)
class Line:
    """A line of history.jsonl.

    Attributes:
        samples_seen: The step.
        values: Metric name to number.
    """

    samples_seen: int
    values: dict[str, float]


class HistoryTail:
    """Reads the lines that were added to a history since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Line]:
        """Whole lines that are new; everything again after the file became shorter.

        A line that is still being written waits for the next time.
        """
        try:
            if self._path.stat().st_size < self._offset:
                self._offset = 0
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [line for text in data[:end].splitlines() if (line := _line(text))]

    def rewind(self) -> None:
        """Read from the start again."""
        self._offset = 0


def _line(text: bytes) -> Line | None:
    try:
        values = json.loads(text)
        step = int(values["samples_seen"])
    except (ValueError, KeyError, TypeError):
        return None  # the end of a line cut off by a resume; the whole line follows
    return Line(
        step,
        {
            metric_name(name): float(value)
            for name, value in values.items()
            if name != "samples_seen" and _is_number(value)
        },
    )


def stage_directory(run_directory: Path, stage: StageName, key: str) -> Path | None:
    """Where a finished or resumable stage's files lie, also after a later execution replaced it."""
    places = [run_directory / stage, *sorted(run_directory.glob(f"{stage}.{key[:8]}*"))] if key else []
    if stage == "shard" and key:
        places.append(run_directory.parent / "datasets" / key[:16])
    return next((place for place in places if (record := peek(place)) and record.key == key), None)


def live_record(run_directory: Path, config: Config, stage: StageName) -> Record | None:
    """The record of a stage's latest attempt, at work or ended."""
    places = [run_directory / f".{stage}.partial", run_directory / stage]
    if stage == "shard":
        places[:1] = sorted((run_directory.parent / "datasets").glob(".*.partial"))
    for place in places:
        record = peek(place)
        if record and (stage != "shard" or record.config.get("data") == key_values(config.data)):
            return record
    return None


def peek(directory: Path) -> Record | None:
    """The record in a directory; None when there is none that can be read."""
    try:
        return read_record(directory)
    except (InputError, OSError):
        return None


def summary(directory: Path) -> dict[str, float]:
    """The numbers of metrics.json and, as `timing.NAME`, of timing.json, under names MLflow takes.

    A run's page has a section per prefix before a slash, in the order of the alphabet, and last what has
    none. So timings have none, and neither have metrics beside traversals: else dozens of charts stand
    above the images.
    """
    slash = "." if (directory / TRAVERSAL).is_dir() else "/"
    metrics = {name.replace("/", slash): value for name, value in _numbers(directory / METRICS).items()}
    timing = {f"timing.{name}": value for name, value in _numbers(directory / TIMING).items()}
    return {metric_name(name): value for name, value in (metrics | timing).items()}


def metric_name(name: str) -> str:
    """A metric's name with what MLflow refuses (such as the `+` of `rgb+depth/nll_nats`) as a dash."""
    return re.sub(r"[^\w./: -]", "-", name)


def pictures(directory: Path) -> list[Picture]:
    """What the run's page shows: picture grids, and traversals with a slider each."""
    grids = [
        Picture(f"{PICTURES_CARD}/{path.stem}", 0, path)
        for path in sorted((directory / "pictures").glob("*.png"))
    ]
    tiles = [
        Picture(f"{TRAVERSAL}/{path.parent.name}", int(path.stem), path)
        for path in sorted((directory / TRAVERSAL).glob("*/*.png"))
        if path.stem.isdecimal()
    ]
    return grids + tiles


def artifacts(directory: Path) -> list[Artifact]:
    """The files kept with a finished stage's run: picture grids and self-contained pages."""
    pages = TRAVERSAL if (directory / TRAVERSAL).is_dir() else ""
    return [Artifact(path, "pictures") for path in sorted((directory / "pictures").glob("*.png"))] + [
        Artifact(path, pages) for path in sorted(directory.glob("*.html"))
    ]


def parameters(record: Record) -> dict[str, str]:
    """What of the config decides the stage's result, with dotted names."""
    return dict(_flat(record.config, ""))


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _numbers(path: Path) -> dict[str, float]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        name: float(value) for name, value in values.items() if _is_number(value) and math.isfinite(value)
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def image_stem(key: str, step: int, at_ms: int, token: str) -> str:
    """The file name by which MLflow's pages recognise an image, without its suffix."""
    import uuid

    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{token}/{key}/{step}")
    return f"{key.replace('/', '~')}+step+{step}+timestamp+{at_ms}+{identity}"


def pack(image: Picture, directory: Path, stem: str) -> None:
    """Write an image and its thumbnail as MLflow's pages expect them."""
    from PIL import Image

    (directory / f"{stem}.png").write_bytes(image.path.read_bytes())
    with Image.open(image.path) as opened:
        scale = THUMBNAIL_PIXELS / max(opened.size)
        size = (max(1, round(opened.width * scale)), max(1, round(opened.height * scale)))
        opened.convert("RGB").resize(size).save(directory / f"{stem}+compressed.webp")
