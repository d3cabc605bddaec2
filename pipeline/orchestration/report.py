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
    lines = [f"{said['run']} in {said['directory']}", "", table(rows), "", *_who_works(said)]
    lines += _checkpoint(said["checkpoint"])
    lines += [f"  {name}: {link}" for name, link in said["mlflow"].items()]
    lines += _tracking(said["tracking"])
    lines += _comparison(said["comparison"])
    if said["next"]:
        lines.append(f"  next: {said['next']}")
    return "\n".join(lines)


def _who_works(said: dict[str, Any]) -> list[str]:
    holder = said["holder"]
    if not holder:
        return []
    age = f"heard of {holder['heartbeat_age_s']:.0f} s ago"
    lines = [f"  at work: process {holder['pid']} on {holder['host']}, {age}"]
    for stage in said["stages"]:
        if stage["state"] != "running":
            continue
        count = stage["processes"] or 1
        age_s = (stage.get("progress") or {}).get("age_s")
        heard = f", said how far it is {_time(age_s)} ago" if age_s is not None else ""
        lines.append(f"  {stage['stage']}: {count} {'process' if count == 1 else 'processes'}{heard}")
    return lines


def _checkpoint(said: dict[str, Any] | None) -> list[str]:
    if said is None:
        return []
    lines = [f"  checkpoint {name} is damaged: {reason}" for name, reason in said["damaged"].items()]
    if said["name"]:
        whole = "whole" if said["valid"] else "all files there, too large to be checked now"
        lines.append(
            f"  checkpoint: {said['name']}, {said['samples']:,} samples, {_time(said['age_s'])} old, {whole}"
        )
    return lines


def _tracking(said: dict[str, Any] | None) -> list[str]:
    if said is None or (said["answers"] is not False and not said["waiting"]):
        return []
    answer = "does not answer now" if said["answers"] is False else "answers"
    waiting = f"{said['waiting']} items wait" if said["waiting"] else "nothing waits"
    return [f"  MLflow at {said['server']}{f' {answer}' if said['answers'] is not None else ''}; {waiting}"]


def _comparison(said: dict[str, Any] | None) -> list[str]:
    if said is None:
        return []
    states = list(said["runs"].values())
    counts = {state: states.count(state) for state in dict.fromkeys(states) if state != "complete"}
    others = "".join(f", {count} {state}" for state, count in counts.items())
    lines = [f"  comparison {said['name']}: {states.count('complete')} of {len(states)} runs done{others}"]
    if said["heartbeat_age_s"] is not None:
        lines[0] += f"; at work, heard of {said['heartbeat_age_s']:.0f} s ago"
    return [*lines, f"  to go on with it or see it: {said['next']}"] if said["next"] else lines


def _time(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


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
