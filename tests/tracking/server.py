"""What a tracking store holds, read back through MLflow's own client."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run as the server shows it."""

    name: str
    status: str
    identifier: str
    parent: str | None
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    inputs: list[Any]


class Server:
    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)

    def runs(self, experiment: str = "triptych") -> dict[str, list[Run]]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        runs: dict[str, list[Run]] = {}
        for run in self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]):
            data, info = run.data, run.info
            shown = Run(
                info.run_name, info.status, info.run_id, data.tags.get("mlflow.parentRunId"), data.tags,
                data.params, data.metrics, run.inputs.dataset_inputs,
            )  # fmt: skip
            runs.setdefault(shown.name, []).append(shown)
        return runs

    def only(self, name: str) -> Run:
        (run,) = self.runs()[name]
        return run

    def steps(self, run: Run, metric: str) -> list[int]:
        """Every logged point, so that a duplicate shows."""
        return sorted(point.step for point in self.client.get_metric_history(run.identifier, metric))

    def images(self, run: Run) -> Counter[tuple[str, int]]:
        """How often each (key, step) is there in full; thumbnails must match one to one."""
        paths = [Path(info.path).name for info in self.client.list_artifacts(run.identifier, "images")]
        full = {name.removesuffix(".png") for name in paths if name.endswith(".png")}
        small = {name.removesuffix("+compressed.webp") for name in paths if name.endswith(".webp")}
        assert full == small
        parts = [name.split("+") for name in full]
        return Counter((key.replace("~", "/"), int(step)) for key, _, step, *_ in parts)

    def artifacts(self, run: Run, folder: str = "") -> list[str]:
        return sorted(info.path for info in self.client.list_artifacts(run.identifier, folder or None))
