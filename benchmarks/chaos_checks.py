"""Whether two runs are the same: their files, and what MLflow shows of them."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.orchestration.mlflow_store import prepare_environment

NAME = "chaos"
STAGES = ("shard", "train", "evaluate", "adapt", "analyze", "synthesize")

OF_THE_ATTEMPT = {"stage.json", "timing.json", "checkpoints", "hardware.json", ".verified"}
"""What a stage's directory says of how and when it came about, not of the result."""

SHOWN = 8


def differences(whole: Path, killed: Path) -> list[str]:
    """What of two roots differs, each in a line; empty if nothing does."""
    lines = _files_that_differ(_files(whole), _files(killed))
    ours, theirs = _tracked(whole), _tracked(killed)
    for name in sorted(ours.keys() | theirs.keys()):
        lines += _runs_that_differ(name, ours.get(name, []), theirs.get(name, []))
    return lines


def _files(root: Path) -> dict[str, bytes]:
    """Every file of every stage and dataset by its name below the root."""
    places = [root / NAME / stage for stage in STAGES]
    places += [path for path in (root / "datasets").iterdir() if path.is_dir()]
    found = {}
    for place in places:
        for path in sorted(place.rglob("*")):
            if path.is_file() and path.relative_to(place).parts[0] not in OF_THE_ATTEMPT:
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


def _files_that_differ(ours: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    lines = [f"{name} is missing" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"{name} is there in addition" for name in sorted(theirs.keys() - ours.keys())]
    both = sorted(ours.keys() & theirs.keys())
    lines += [f"{name} has other bytes" for name in both if ours[name] != theirs[name]]
    return lines


def _runs_that_differ(name: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    if len(ours) != 1 or len(theirs) != 1:
        states = [run["status"] for run in theirs]
        return [f"MLflow: {len(theirs)} runs named {name} ({', '.join(states)}) instead of {len(ours)}"]
    lines = []
    for part, value in ours[0].items():
        other = theirs[0][part]
        if value != other:
            lines.append(f"MLflow: {name}: {part}: {_told(value, other)}")
    return lines


def _told(ours: Any, theirs: Any) -> str:
    """What of two values differs, cut short."""
    if not isinstance(ours, dict):
        return f"{theirs} instead of {ours}"
    keys = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    shown = [f"{key}: {theirs.get(key)} instead of {ours.get(key)}"[:300] for key in sorted(keys, key=str)]
    return "; ".join(shown[:SHOWN]) + (f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def _tracked(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Everything MLflow shows of every run that does not tell one attempt from another."""
    prepare_environment()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("triptych")
    found: dict[str, list[dict[str, Any]]] = {}
    if experiment is None:
        return found
    for run in client.search_runs([experiment.experiment_id]):
        files = _artifacts(client, run.info.run_id)
        points = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if not name.startswith("timing.")
        }
        found.setdefault(run.info.run_name, []).append({
            "status": run.info.status,
            "metrics": points,
            "images": Counter(
                name.partition("+timestamp")[0] for name in files if name.startswith("images/")
            ),
            "files": Counter(name for name in files if not name.startswith("images/")),
            "parameters": run.data.params,
            "datasets": sorted(entry.dataset.digest for entry in run.inputs.dataset_inputs),
        })
    return found


def _artifacts(client: Any, run: str, folder: str | None = None) -> list[str]:
    names = []
    for entry in client.list_artifacts(run, folder):
        names += _artifacts(client, run, entry.path) if entry.is_dir else [entry.path]
    return names
