import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.orchestration.mlflow_store import prepare_environment


@pytest.fixture(autouse=True)
def quiet_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same environment and warning filter as in a run; no server from outside."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare_environment()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with MLflow's tables, which take seconds to create."""
    from mlflow.tracking import MlflowClient

    prepare_environment()
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def root(tmp_path: Path, empty_database: bytes) -> Iterator[Path]:
    """A root whose database needs no creation."""
    directory = tmp_path / "runs"
    directory.mkdir()
    (directory / "mlflow.db").write_bytes(empty_database)
    before = os.environ.copy()
    yield directory
    assert os.environ.get("MLFLOW_TRACKING_URI") == before.get("MLFLOW_TRACKING_URI")
