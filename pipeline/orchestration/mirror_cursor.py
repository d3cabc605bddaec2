"""What of a run directory MLflow holds already: `<root>/<name>/mlflow.json`, replaced after every step."""

import fcntl
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.orchestration.stage import StageName

RunState = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

CURSOR = "mlflow.json"
LOCK = ".mlflow.lock"


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class Sent:
    """What the server has of one run.

    Attributes:
        state: Its status there; None before it was created.
        attempt: The attempt its tags speak of.
        described: Whether parameters are there.
        dataset: Whether the dataset it made or reads is there.
        samples_seen: The last line of history.jsonl that is there.
        sending: The last line that was being sent, and the time its points carry: they carry it again if
            they are sent again, so that a server that took them late has them once.
        summary: Whether metrics.json and timing.json are there.
        headline: Whether the parent run has the headline metrics.
        files: Artifacts that are there, and images as `KEY@STEP`.
        model: Whether the trained model is registered.
        superseded: Whether it is marked as replaced by a later execution.
    """

    state: RunState | None = None
    attempt: int = 0
    described: bool = False
    dataset: bool = False
    samples_seen: int = -1
    sending: list[int] = field(default_factory=lambda: [-1, 0])
    summary: bool = False
    headline: bool = False
    files: list[str] = field(default_factory=list)
    model: bool = False
    superseded: bool = False


@dataclass
class Execution:
    """One stage executed with one key, however often it was interrupted: one child run.

    Attributes:
        stage: Which stage.
        key: The ledger's key of the result; empty until the ledger shows it.
        state: What the run's status should be.
        attempt: How often the stage was started.
        started_ms: When it was first started.
        ended_ms: When it ended; None while it runs.
        superseded: Whether a later execution of the stage replaced it.
        token: A tag that finds the run again if we are killed before we learn its identifier.
        run: MLflow's identifier; None before it was created.
        sent: What the server has.
    """

    stage: StageName
    key: str
    state: RunState = "RUNNING"
    attempt: int = 1
    started_ms: int = field(default_factory=now_ms)
    ended_ms: int | None = None
    superseded: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    run: str | None = None
    sent: Sent = field(default_factory=Sent)


@dataclass
class Parent:
    """The run that stands for the whole pipeline; attributes as in `Execution`.

    Attributes:
        config_digest: Of the config.yaml the server has.
        note_digest: Of the description the server has.
    """

    state: RunState = "RUNNING"
    started_ms: int = field(default_factory=now_ms)
    ended_ms: int | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    run: str | None = None
    sent_state: RunState | None = None
    config_digest: str = ""
    note_digest: str = ""


@dataclass
class Cursor:
    """The runs of one run directory on one tracking server.

    Attributes:
        experiment: MLflow's identifier of the experiment; None before it was asked.
        parent: The parent run.
        executions: The child runs in the order they were started.
    """

    experiment: str | None = None
    parent: Parent = field(default_factory=Parent)
    executions: list[Execution] = field(default_factory=list)

    def latest(self, stage: StageName) -> Execution | None:
        """The newest execution of a stage."""
        return next((execution for execution in reversed(self.executions) if execution.stage == stage), None)


class CursorFile:
    """Reads and replaces a run's `mlflow.json`, which holds one cursor per tracking server."""

    def __init__(self, run_directory: Path, server: str) -> None:
        self.run_name = run_directory.name
        self._path = run_directory / CURSOR
        self._server = server
        self._lock = threading.Lock()
        self._all = _read(self._path)
        self.cursor = _cursor(self._all.get(server, {}), self._path)

    def change(self, edit: Callable[[], None]) -> None:
        """Change the cursor and make the change durable."""
        with self._lock:
            edit()
            self._save()

    def save(self) -> None:
        """Make what was changed durable."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        self._all[self._server] = asdict(self.cursor)
        write_json(self._path, {"servers": self._all})


@contextmanager
def only_mirror(run_directory: Path) -> Iterator[bool]:
    """Hold the right to upload a run; yields False when another living process has it."""
    with (run_directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(path, error) from None
    servers = values.get("servers") if isinstance(values, dict) else None
    if not isinstance(servers, dict):
        raise _damaged(path, "it names no servers")
    return servers


def _cursor(values: dict[str, Any], path: Path) -> Cursor:
    try:
        executions = [
            Execution(**{**entry, "sent": Sent(**entry["sent"])}) for entry in values.get("executions", [])
        ]
        return Cursor(values.get("experiment"), Parent(**values.get("parent", {})), executions)
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, problem: object) -> InputError:
    return InputError(
        f"{path}: damaged, so what MLflow already holds is not known ({problem}); "
        "remove the file and everything is uploaded once more, as new runs"
    )
