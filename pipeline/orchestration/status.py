"""How far a run is and what to type next, from files alone: on any machine that sees them."""

import json
import time
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import command_name
from pipeline.orchestration.checkpoint_seen import newest_checkpoint
from pipeline.orchestration.compared import comparison_status
from pipeline.orchestration.ledger import Record, read_attempt, read_record
from pipeline.orchestration.lock import Holder, read_holder
from pipeline.orchestration.origin import Origin
from pipeline.orchestration.plan import Step, plan
from pipeline.orchestration.tracking import run_links, tracking_status

TAIL_BYTES = 65_536


def status(config: Config, root: Path, origin: Origin) -> dict[str, Any]:
    """Everything `triptych status --json` says.

    Returns:
        `run`, `directory`, `holder` (who works on it now, or null), `stages` (stage, state, verb,
        reason, key, attempts, processes, execution, headline, and progress while it runs), `checkpoint` (see
        `newest_checkpoint`), `mlflow` (links), `tracking` (see `tracking_status`), `comparison` (see
        `comparison_status`), `next` (a command, or null).
    """
    directory = root / config.name
    holder = read_holder(directory / "lock.json")
    holder = holder if holder and holder.is_alive() else None
    steps = plan(config, root)
    comparison = comparison_status(root, config.name)
    only_compared = comparison is not None and not (directory / "config.yaml").exists()
    return {
        "run": config.name,
        "directory": str(directory),
        "holder": _who(holder),
        "stages": [_stage(step, directory, holder) for step in steps],
        "checkpoint": newest_checkpoint(directory / "train" / "checkpoints"),
        "mlflow": run_links(directory, config),
        "tracking": tracking_status(directory, config),
        "comparison": comparison,
        "next": None if only_compared else _next(steps, holder, origin),
    }


def _stage(step: Step, directory: Path, holder: Holder | None) -> dict[str, Any]:
    record, state = _record_and_state(step, directory, holder)
    said: dict[str, Any] = {
        "stage": step.stage,
        "state": state,
        "verb": step.verb,
        "reason": "works now" if state == "running" else step.reason,
        "key": record.key if record else None,
        "attempts": record.attempts if record else 0,
        "processes": record.execution.get("processes") if record else None,
        "execution": record.execution if record else {},
        "headline": record.headline if record else {},
    }
    if state == "running":
        said["progress"] = _progress(directory, step)
    return said


def _record_and_state(step: Step, directory: Path, holder: Holder | None) -> tuple[Record | None, str]:
    if step.is_done:
        return step.record, "complete"
    attempt = read_attempt(step.place) if step.place else None
    if attempt and step.wanted and attempt.key == step.wanted.key:
        if attempt.state != "running":
            return attempt, "failed" if attempt.state == "failed" else "damaged"
        return attempt, "running" if holder else "interrupted"
    earlier = read_record(directory / step.stage)
    if step.verb == "skip":
        return None, "not needed"
    return earlier, "outdated" if earlier else "absent"


def _progress(directory: Path, step: Step) -> dict[str, Any]:
    """What the stage wrote last of how far it is; with the last line of its history, if it has one."""
    said = _read_json(directory / ".progress.json")
    if said.get("stage") != step.stage:
        return {}
    rate, left = said["per_second"], said["total"] - said["done"]
    progress = {
        "task": said["task"],
        "done": said["done"],
        "total": said["total"],
        "unit": said["unit"],
        "per_second": rate,
        "eta_s": round(left / rate) if rate > 0 else None,
        "age_s": max(0.0, round(time.time() - said["updated"], 1)),
    }
    last = _last_line(directory / step.stage / "history.jsonl")
    return progress | ({"history": last} if last else {})


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a file of JSON lines."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
        last: dict[str, Any] = json.loads(lines[-2])
    except (OSError, ValueError, IndexError):
        return {}
    return last


def _who(holder: Holder | None) -> dict[str, Any] | None:
    if holder is None:
        return None
    age_s = max(0.0, round(time.time() - holder.heartbeat, 1))
    return {"host": holder.host, "pid": holder.pid, "since": holder.since, "heartbeat_age_s": age_s}


def _next(steps: list[Step], holder: Holder | None, origin: Origin) -> str | None:
    if holder:
        return None
    verb = "ui" if all(step.verb == "skip" for step in steps) else "run"
    return f"{command_name()} {verb} {origin.arguments()}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
