"""A comparison in MLflow: one run with its table and figures, and its members' runs nested under it.

Like everything that is uploaded, each step can be repeated; `mlflow.json` notes what is there.
"""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config, load_config
from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.orchestration import mirror_files as files
from pipeline.orchestration.compared import VALUES, member_runs
from pipeline.orchestration.mirror_cursor import CursorFile, Parent, only_mirror
from pipeline.orchestration.mirror_notes import GROUP_TAG, comparison_links, origin_tags
from pipeline.orchestration.mlflow_store import Store, Target, reason, target_of
from pipeline.orchestration.tracking import sync

TABLE = "table.md"
PICTURES = ("comparison", "samples")

UPLOAD = "upload.json"
"""In a comparison's directory: what else `sync` needs to know to upload it without running it."""

POLL_S = 0.2


@dataclass(frozen=True)
class Comparable:
    """What is uploaded.

    Attributes:
        directory: `<root>/<name>-compare`; holds the table, the values and the pictures.
        members: Directory and config of every run.
        metrics: Of every system, as `SYSTEM/METRIC`.
        again: The command that uploads later what could not be uploaded now.
        look: The command that shows what is in a local file.
    """

    directory: Path
    members: Sequence[tuple[Path, Config]]
    metrics: Mapping[str, float]
    again: str
    look: str

    @property
    def config(self) -> Config:
        """Where all of it goes is the same for all runs."""
        return self.members[0][1]

    @property
    def target(self) -> Target:
        """The tracking server."""
        return target_of(self.config, self.directory.parent)


def upload_comparison(comparable: Comparable, timeout_s: float) -> list[str]:
    """Upload what waits of the members, then the comparison, for at most so long.

    Returns:
        Lines for a person: where it is, or why it is not there yet.
    """
    if not comparable.config.tracking.enabled:
        return []
    _remember(comparable)
    where: list[str] = []
    problems: list[str] = []
    until = time.monotonic() + timeout_s

    def work() -> None:
        try:
            where.extend(_upload(comparable, until))
        except Exception as error:  # noqa: BLE001 (whatever goes wrong with tracking, the comparison is done)
            problems.append(f"does not work now ({reason(error)})")

    thread = threading.Thread(target=work, name="mlflow-comparison", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if where:
        return where
    why = problems[0] if problems else "is slow"
    return [f"MLflow at {comparable.target.shown} {why}; `{comparable.again}` uploads what waits"]


def sync_comparison(directory: Path, timeout_s: float) -> list[str]:
    """Upload what an outage kept back of a comparison and its members' runs; nothing runs again.

    Args:
        directory: `<root>/<name>-compare`.
        timeout_s: How long to wait for others that upload a member just now.

    Returns:
        Lines for a person.

    Raises:
        InputError: If the server cannot be reached, or somebody else uploads it.
    """
    until = time.monotonic() + timeout_s
    comparable = _remembered(directory)
    if comparable is None:
        for run in member_runs(directory):
            if (config := directory.parent / run / "config.yaml").is_file():
                _sync_member(config.parent, load_config(config), until)
        return [f"{directory.name}: not finished yet; what its runs have is uploaded"]
    try:
        return _upload(comparable, until)
    except InputError:
        raise
    except Exception as error:  # whatever a server, a driver or a network raises
        raise InputError(
            f"MLflow at {comparable.target.shown} does not work now ({reason(error)}); {directory.name} waits"
        ) from error


def _remember(comparable: Comparable) -> None:
    values = {
        "members": [run.name for run, _ in comparable.members],
        "metrics": dict(comparable.metrics),
        "again": comparable.again,
        "look": comparable.look,
    }
    write_json(comparable.directory / UPLOAD, values)


def _remembered(directory: Path) -> Comparable | None:
    """What `upload_comparison` was given; None if it never was, or no member is left."""
    try:
        values = json.loads((directory / UPLOAD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    runs = [directory.parent / name for name in values["members"]]
    members = [(run, load_config(path)) for run in runs if (path := run / "config.yaml").is_file()]
    if not members:
        return None
    return Comparable(directory, members, values["metrics"], values["again"], values["look"])


def _upload(comparable: Comparable, until: float) -> list[str]:
    for directory, config in comparable.members:
        if directory.is_dir():
            _sync_member(directory, config, until)
    with only_mirror(comparable.directory) as free:
        if not free:
            raise InputError("another process uploads this comparison just now")
        file = CursorFile(comparable.directory, comparable.target.name)
        nested = [run for directory, config in comparable.members if (run := _parent_run(directory, config))]
        digest = _digest(comparable, nested)
        if file.cursor.parent.run is None or file.cursor.parent.config_digest != digest:
            _push(comparable, file, nested, digest)
        return _where(comparable, file)


def _sync_member(directory: Path, config: Config, until: float) -> None:
    """Upload what its own mirror has not, which may still be at it.

    Raises:
        InputError: If it does not end in time.
    """
    while time.monotonic() < until:
        with only_mirror(directory) as free:
            pass
        if free:
            sync(directory, config)
            return
        time.sleep(POLL_S)
    raise InputError(f"{directory.name} is still being uploaded")


def _parent_run(directory: Path, config: Config) -> str | None:
    if not directory.is_dir():
        return None
    target = target_of(config, directory.parent)
    return CursorFile(directory, target.name).cursor.parent.run


def _push(comparable: Comparable, file: CursorFile, nested: Sequence[str], digest: str) -> None:
    store, cursor, name = Store(comparable.target), file.cursor, comparable.directory.name
    cursor.experiment = store.experiment
    if cursor.parent.run and not store.has(cursor.parent.run):
        cursor.parent = Parent()
    parent = cursor.parent
    file.save()
    if parent.run is None:
        tags = {**origin_tags(), "triptych.run": name, "triptych.order": "0", GROUP_TAG: name}
        parent.run = store.create(name, parent.token, parent.started_ms, tags, search=True)
        file.save()
    for run in nested:
        store.tag(run, {"mlflow.parentRunId": parent.run, GROUP_TAG: name})
    at_ms = int((comparable.directory / VALUES).stat().st_mtime * 1000)
    # A page sorts its sections by what stands before a slash: `aae/` would come before the figures.
    names = {metric: files.metric_name(metric.replace("/", ".")) for metric in comparable.metrics}
    points = [(names[metric], value, 0) for metric, value in comparable.metrics.items()]
    store.log_metrics(parent.run, points, at_ms)
    note = (comparable.directory / TABLE).read_text(encoding="utf-8")
    store.tag(parent.run, {"mlflow.note.content": note})
    found = [path for path in _files(comparable.directory) if path.is_file()]
    store.upload(parent.run, [files.Artifact(path, "") for path in found])
    pictures = [path for path in found if path.suffix == ".png"]
    cards = [files.Picture(f"{files.PICTURES_CARD}/{path.stem}", 0, path) for path in pictures]
    store.show(parent.run, parent.token, parent.started_ms, cards)
    store.finish(parent.run, parent.token, "FINISHED", at_ms)
    parent.config_digest, parent.state, parent.sent_state = digest, "FINISHED", "FINISHED"
    file.save()


def _digest(comparable: Comparable, nested: Sequence[str]) -> str:
    """Of everything that is uploaded, and where."""
    digest = hashlib.sha256(json.dumps([dict(comparable.metrics), list(nested)]).encode())
    for path in _files(comparable.directory):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _files(directory: Path) -> list[Path]:
    return [directory / name for name in (TABLE, VALUES, *(f"{stem}.png" for stem in PICTURES))]


def _where(comparable: Comparable, file: CursorFile) -> list[str]:
    target = comparable.target
    found = comparison_links(target.base, comparable.directory.name, file.cursor)
    head = f"MLflow at {target.shown}" if target.is_server else f"MLflow, once `{comparable.look}` runs"
    return [f"{head}:", *(f"  {label:<11}{address}" for label, address in found.items())]
