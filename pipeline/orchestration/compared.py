"""What a comparison is made of, as its own directory says: for `status`, and for `sync`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.orchestration.ledger import read_record
from pipeline.orchestration.lock import read_holder

MEMBERS = "members.json"
VALUES = "comparison.json"

COMPARED_STAGES = ("train", "evaluate")


def comparison_directory(root: Path, name: str) -> Path:
    """Where the comparison that was started from the config of a run lies."""
    return root / f"{name}-compare"


def write_members(directory: Path, runs: Sequence[str], command: str) -> None:
    """Remember which runs a comparison is made of and what goes on with it."""
    write_json(directory / MEMBERS, {"runs": list(runs), "command": command})


def comparison_status(root: Path, name: str) -> dict[str, Any] | None:
    """How far a comparison is, from files alone.

    Returns:
        `name`, `directory`, `runs` (name to complete, failed, running, interrupted or absent),
        `heartbeat_age_s` (of who works on it; null if nobody does) and `next` (a command, or null while
        somebody does). None if there is no comparison.
    """
    directory = comparison_directory(root, name)
    members = _read(directory / MEMBERS)
    if not members and not (directory / VALUES).is_file():
        return None
    runs = members.get("runs") or list(_read(directory / VALUES).get("runs", {}))
    holder = read_holder(directory / "lock.json")
    is_held = holder is not None and holder.is_alive()
    return {
        "name": directory.name,
        "directory": str(directory),
        "runs": {run: _state(root / run) for run in runs},
        "heartbeat_age_s": max(0.0, round(time.time() - holder.heartbeat, 1)) if holder and is_held else None,
        "next": None if is_held else members.get("command"),
    }


def member_runs(directory: Path) -> list[str]:
    """The names of a comparison's runs; none if it was not noted."""
    return list(_read(directory / MEMBERS).get("runs", []))


def _state(run: Path) -> str:
    """Of a member: what its ledger says."""
    states = {stage: _stage_state(run / stage) for stage in COMPARED_STAGES}
    if all(state == "complete" for state in states.values()):
        return "complete"
    holder = read_holder(run / "lock.json")
    if holder and holder.is_alive():
        return "running"
    if "failed" in (*states.values(), _stage_state(run / ".evaluate.partial")):
        return "failed"
    return "interrupted" if run.is_dir() else "absent"


def _stage_state(directory: Path) -> str | None:
    try:
        record = read_record(directory)
    except InputError:
        return "failed"
    return record.state if record else None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
