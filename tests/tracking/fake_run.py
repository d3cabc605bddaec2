"""A run directory as the ledger and the stages leave it, without running a stage."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from pipeline.config import Config, resolved_yaml
from pipeline.orchestration.ledger import Record, adopt_dataset, begin, commit, place_of
from pipeline.orchestration.stage import Manifest, StageName

SAMPLES_PER_LINE = 640


def config_of(name: str = "demo", **tracking: object) -> Config:
    return Config.model_validate({"name": name, "data": {"source": {"kind": "rooms"}}, "tracking": tracking})


class FakeRun:
    """Plays the supervisor's part: `start` a stage, let it write, `finish` it."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root, self.config = root, config
        self.directory = root / config.name
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "config.yaml").write_text(resolved_yaml(config))
        self.records: dict[StageName, Record] = {}

    def start(self, stage: StageName, key: str = "") -> Path:
        key = (key or stage) * 64
        section = {"seed": 0, stage: {"limit": None, "nested": {"batch": 64}}}
        if stage == "shard":
            from pipeline.config import key_values

            section = {"data": key_values(self.config.data)}
        made = self.records.get("shard") if stage != "shard" else None
        inputs = {"dataset": made.digest} if made else {}
        execution = {"processes": 1, "threads": 1}
        record = Record(stage, "running", key[:64], 1, section, inputs, execution=execution)
        place = place_of(self.root, self.config.name, stage, record.key)
        place.home.parent.mkdir(parents=True, exist_ok=True)
        self.records[stage] = begin(place, record)
        return place.working

    def fail(self, stage: StageName, error: str) -> None:
        from pipeline.orchestration.ledger import fail

        record = self.records[stage]
        fail(place_of(self.root, self.config.name, stage, record.key), record, error)

    def finish(self, stage: StageName, **metrics: float) -> Path:
        record = self.records[stage]
        place = place_of(self.root, self.config.name, stage, record.key)
        manifest = Manifest(metrics=metrics, headline=tuple(metrics)[:1], timing={"seconds": 1.5})
        self.records[stage] = commit(place, replace(record), manifest, self.root)
        if stage == "shard":
            adopt_dataset(place, self.root)
        return place.home


def write_dataset(directory: Path, train: int = 12_000) -> None:
    """What of a dataset concerns MLflow: its description and its pictures."""
    described = {
        "modalities": ["rgb", "depth", "seg"],
        "members": {"rgb": "rgb.npy", "depth": "depth.npy", "seg": "seg.npy"},
        "class_names": ["floor", "wall", "cube"],
        "image_size": 64,
        "counts": {"train": train, "test": 8},
        "depth": {"mean_m": 2.5},
        "depth_scale_m": 0.001,
        "source": {"kind": "rooms"},
        "quarantine": {"truncated": 3},
    }
    (directory / "dataset.json").write_text(json.dumps(described))
    write_pictures(directory, ["contact_sheet", "classes", "depth"])


def write_history(directory: Path, lines: Sequence[int]) -> None:
    """Append the numbered lines; line n is at 640 * n samples."""
    with (directory / "history.jsonl").open("a", encoding="utf-8") as file:
        for number in lines:
            file.write(json.dumps(history_line(number)) + "\n")


def history_line(number: int) -> dict[str, float]:
    return {"samples_seen": number * SAMPLES_PER_LINE, "loss": 1000.0 / number, "kl_nats": float(number)}


def write_tiles(directory: Path, latents: int, steps: int, pixels: int = 48) -> None:
    for latent in range(latents):
        folder = directory / "traversal" / f"z{latent:02d}"
        folder.mkdir(parents=True)
        for step in range(steps):
            _picture(f"z{latent} at {step}", 30 + 20 * step, 250 - 12 * latent, pixels).save(
                folder / f"{step:03d}.png"
            )
    (directory / "index.html").write_text("<!doctype html><title>Traversals</title><p>All latents.</p>")


def write_pictures(directory: Path, names: Sequence[str]) -> None:
    (directory / "pictures").mkdir(exist_ok=True)
    for name in names:
        _picture(name, 120, 90, 96).save(directory / "pictures" / f"{name}.png")


def _picture(text: str, red: int, green: int, pixels: int) -> Image.Image:
    image = Image.new("RGB", (pixels, pixels), (red % 256, green % 256, 120))
    ImageDraw.Draw(image).text((2, pixels // 2), text)
    return image
