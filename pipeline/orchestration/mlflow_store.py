"""The few things we ask of MLflow. The only file that imports it, and only when a store is opened."""

import fcntl
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.config import Config
from pipeline.orchestration.mirror_dataset import Lineage
from pipeline.orchestration.mirror_files import Artifact, Picture, image_stem, pack

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Defaults block for minutes when a server is gone; whoever sets them otherwise is obeyed."""

TOKEN = "triptych.token"
"""Tag that finds a run whose identifier we do not know."""

UI_PORT = 5000

METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000


@dataclass(frozen=True)
class Target:
    """Where a run is mirrored to.

    Attributes:
        uri: Tracking URI.
        experiment: Name of the experiment.
        artifacts: Where the experiment's files lie; None where a server decides.
        name: What the cursor calls it; stays valid when the root moves.
    """

    uri: str
    experiment: str
    artifacts: Path | None
    name: str

    @property
    def is_server(self) -> bool:
        """Whether a server answers there, so that pages can be linked without starting one."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def base(self) -> str:
        """Where its pages are, or will be when `triptych ui` runs."""
        return self.shown if self.is_server else f"http://127.0.0.1:{UI_PORT}"

    @property
    def database(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @property
    def shown(self) -> str:
        """The URI without a password."""
        parts = urlsplit(self.uri)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=host)) if host != parts.netloc else self.uri


def target_of(config: Config | None, root: Path) -> Target:
    """The config's server, else MLFLOW_TRACKING_URI, else a SQLite file under the root."""
    tracking = config.tracking if config else None
    uri = (tracking.uri if tracking else None) or os.environ.get("MLFLOW_TRACKING_URI")
    experiment = tracking.experiment if tracking else "triptych"
    name = f"{uri or 'local'}#{experiment}"
    uri = uri or f"sqlite:///{root.resolve() / DATABASE}"
    artifacts = None if uri.startswith(("http://", "https://")) else root.resolve() / ARTIFACTS
    return Target(uri, experiment, artifacts, name)


def prepare_environment() -> None:
    """Set what MLflow reads when it is imported, and keep its log lines to itself."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy)(\.|$)")


def reason(error: BaseException) -> str:
    """Why MLflow failed, in one line."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    text = lines[0] if len(lines[0]) <= 160 else lines[0][:157] + "..."
    return text.rpartition(": ")[2] if "HTTPConnection" in text else text


class Store:
    """An open tracking store and one experiment in it."""

    def __init__(self, target: Target) -> None:
        prepare_environment()
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        if target.database is not None:
            _create_database(target.database)
        self._client = MlflowClient(target.uri, target.uri)
        self.experiment = self._open_experiment(target)

    def _open_experiment(self, target: Target) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(target.experiment)
        if found is None:
            location = target.artifacts.as_uri() if target.artifacts else None
            try:
                return str(self._client.create_experiment(target.experiment, artifact_location=location))
            except MlflowException:  # another run created it at the same time
                found = self._client.get_experiment_by_name(target.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def has(self, run: str) -> bool:
        """Whether a run exists and was not deleted.

        Raises:
            MlflowException: If the store cannot tell.
        """
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def create(self, name: str, token: str, started_ms: int, tags: Mapping[str, str], *, search: bool) -> str:
        """Create a run, or find the one that was created with this token before we could note it.

        MLflow's client repeats a request whose answer is lost, so one call may create two.
        """
        if search and (found := self._tagged(token)):
            run = found[0]
        else:
            created = self._client.create_run(
                self.experiment, start_time=started_ms, run_name=name, tags={**tags, TOKEN: token}
            )
            run = str(created.info.run_id)
        self._remove_twins(run, token)
        return run

    def _remove_twins(self, run: str, token: str) -> None:
        """Delete what else has a run's token: the server took a request twice, or late."""
        for other in self._tagged(token):
            if other != run:
                self._client.delete_run(other)

    def _tagged(self, token: str) -> list[str]:
        found = self._client.search_runs([self.experiment], f"tags.`{TOKEN}` = '{token}'")
        return [str(run.info.run_id) for run in found]

    def reopen(self, run: str) -> None:
        """Say that a run goes on."""
        self._client.update_run(run, status="RUNNING")

    def finish(self, run: str, token: str, state: str, ended_ms: int | None) -> None:
        """Say how a run ended."""
        self._remove_twins(run, token)
        self._client.set_terminated(run, status=state, end_time=ended_ms)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_parameters(self, run: str, values: Mapping[str, str]) -> None:
        """Log parameters; the same ones again change nothing."""
        from mlflow.entities import Param

        items = [Param(name, value[:PARAM_LENGTH]) for name, value in values.items()]
        for start in range(0, len(items), PARAMS_PER_BATCH):
            self._client.log_batch(run, params=items[start : start + PARAMS_PER_BATCH])

    def last_steps(self, run: str, names: Iterable[str]) -> dict[str, int]:
        """The last step the server has of each metric that it has."""
        known = self._client.get_run(run).data.metrics
        return {
            name: max(point.step for point in self._client.get_metric_history(run, name))
            for name in names
            if name in known
        }

    def log_metrics(self, run: str, points: Sequence[tuple[str, float, int]], at_ms: int) -> None:
        """Log (name, value, step); the same point at the same time again changes nothing."""
        from mlflow.entities import Metric

        items = [Metric(name, value, at_ms, step) for name, value, step in points]
        for start in range(0, len(items), METRICS_PER_BATCH):
            self._client.log_batch(run, metrics=items[start : start + METRICS_PER_BATCH])

    def log_dataset(self, run: str, lineage: Lineage, use: str) -> None:
        """Say which dataset a run made or reads; again changes nothing."""
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=lineage.name,
            digest=lineage.digest,
            source_type="local",
            source=json.dumps({"uri": lineage.source}),
            schema=json.dumps(lineage.schema) if lineage.schema else None,
            profile=json.dumps(lineage.profile),
        )
        self._client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", use)])])

    def upload(self, run: str, artifacts: Iterable[Artifact]) -> None:
        """Upload files; one that is there already is replaced."""
        for artifact in artifacts:
            self._client.log_artifact(run, str(artifact.path), artifact.folder or None)

    def upload_tree(self, run: str, directory: Path, folder: str) -> None:
        """Upload a directory's files into a folder of the run's artifacts."""
        self._client.log_artifacts(run, str(directory), folder)

    def register(self, run: str, folder: str, name: str) -> None:
        """Register a model that was uploaded into a folder of the run, unless it is registered already.

        Raises:
            MlflowException: If the store refuses.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'"):
            source = f"{self._client.get_run(run).info.artifact_uri}/{folder}"
            self._client.create_model_version(name, source, run_id=run, await_creation_for=0)

    def show(self, run: str, token: str, at_ms: int, images: Sequence[Picture]) -> None:
        """Show images on the run's page, in cards with a slider over their steps.

        `MlflowClient.log_image` names every file anew, so an image sent again after an interruption would
        appear twice; here the name follows from the image, and sending it again replaces it. It also
        takes one request for many images instead of three for each.
        """
        with tempfile.TemporaryDirectory(prefix="triptych-") as name:
            for image in images:
                pack(image, Path(name), image_stem(image.key, image.step, at_ms, token))
            self._client.log_artifacts(run, name, "images")
        self._client.set_tag(run, "mlflow.loggedImages", "True")


def _create_database(path: Path) -> None:
    """Create MLflow's tables aside and put the finished file in place.

    MLflow creates them in seconds, step by step; killed in between, or done twice at a time, it leaves a
    file that can neither be used nor repaired.
    """
    from mlflow.tracking import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("a") as lock, tempfile.TemporaryDirectory() as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        aside = Path(name) / path.name
        MlflowClient(f"sqlite:///{aside}").search_experiments(max_results=1)
        near = path.with_name(f".{path.name}.new")
        shutil.copyfile(aside, near)
        near.replace(path)
