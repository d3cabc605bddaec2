"""Plain text for a terminal: what would run, how far it is, what came out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.orchestration.ledger import Record, read_record
from pipeline.orchestration.plan import Step
from pipeline.orchestration.stage import STAGES


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows in columns as wide as needed; the first row is the heading."""
    columns = range(max(len(row) for row in rows))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in columns]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(f"{indent}{line}".rstrip() for line in [lines[0], rule, *lines[1:]])


def plan_text(steps: list[Step]) -> str:
    """What `plan` prints."""
    return table([("stage", "would", "because"), *((step.stage, step.verb, step.reason) for step in steps)])


def status_text(said: dict[str, Any]) -> str:
    """What `status` prints."""
    rows = [("stage", "state", "next", "because", "result")]
    for stage in said["stages"]:
        rows.append((stage["stage"], stage["state"], stage["verb"], stage["reason"], _result(stage)))
    holder = said["holder"]
    lines = [f"{said['run']} in {said['directory']}", "", table(rows), ""]
    if holder:
        age = f"heard of {holder['heartbeat_age_s']:.0f} s ago"
        lines.append(f"  at work: process {holder['pid']} on {holder['host']}, {age}")
    lines += [f"  {name}: {link}" for name, link in said["mlflow"].items()]
    if said["next"]:
        lines.append(f"  next: {said['next']}")
    return "\n".join(lines)


def headline_text(config: Config, root: Path) -> str:
    """The headline metrics of every finished stage and where there is something to look at."""
    directory = root / config.name
    rows: list[tuple[str, str, str]] = [("stage", "metric", "value")]
    for stage in STAGES:
        record = read_record(directory / stage)
        if record and record.state == "complete":
            names = (stage, *[""] * len(record.headline))
            rows += [(name, *row) for name, row in zip(names, _numbers(record), strict=False)]
    looks = [
        ("dataset", directory / "shard" / "pictures"),
        ("pictures", directory / "evaluate" / "pictures"),
        ("few-shot pictures", directory / "adapt" / "pictures"),
        ("traversals", directory / "analyze" / "index.html"),
        ("made scenes", directory / "synthesize"),
    ]
    lines = [table(rows), ""] if len(rows) > 1 else []
    lines += [f"  {name + ':':<18} {path}" for name, path in looks if path.exists()]
    return "\n".join(lines)


def _numbers(record: Record) -> list[tuple[str, str]]:
    return [(name, number(value)) for name, value in record.headline.items()]


def number(value: float) -> str:
    """Four significant digits, counts in full."""
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1000 else f"{value:.4g}"


def _result(stage: dict[str, Any]) -> str:
    progress = stage.get("progress")
    if progress:
        eta = progress["eta_s"]
        left = f", {eta // 60}:{eta % 60:02d} left" if eta is not None else ""
        return (
            f"{progress['done']}/{progress['total']} {progress['unit']} {progress['per_second']:.0f}/s{left}"
        )
    shown = [f"{name} {number(value)}" for name, value in stage["headline"].items()]
    return ", ".join(shown[:3])
