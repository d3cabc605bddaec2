"""Uploading what a finished stage left: numbers, files, images, and a trained model."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.orchestration import mirror_files as files
from pipeline.orchestration.ledger import Record
from pipeline.orchestration.mirror_cursor import CursorFile, Execution
from pipeline.orchestration.mlflow_store import Store

IMAGES_PER_STEP = 24


def unsent_files(execution: Execution, directory: Path) -> list[files.Picture | files.Artifact]:
    """Artifacts and images the server lacks."""
    present = set(execution.sent.files)
    items: list[files.Picture | files.Artifact] = [*files.artifacts(directory), *files.pictures(directory)]
    return [item for item in items if item.name not in present]


def push_result(
    store: Store, file: CursorFile, execution: Execution, directory: Path, record: Record
) -> None:
    """Upload what of a finished stage the server lacks.

    Args:
        store: Where to.
        file: What the server has; replaced after every step.
        execution: Of the stage; its run exists.
        directory: The stage's.
        record: Its ledger entry.
    """
    assert execution.run is not None
    _push_numbers(store, file, execution, directory, record)
    if execution.stage == "train" and not execution.sent.model:
        _push_model(store, execution.run, directory, file.run_name)
        execution.sent.model = True
        file.save()
    unsent = unsent_files(execution, directory)
    for item in unsent:
        if isinstance(item, files.Artifact):
            store.upload(execution.run, [item])
            _note(file, execution, [item.name])
    images = [item for item in unsent if isinstance(item, files.Picture)]
    for start in range(0, len(images), IMAGES_PER_STEP):
        part = images[start : start + IMAGES_PER_STEP]
        store.show(execution.run, execution.token, execution.ended_ms or execution.started_ms, part)
        _note(file, execution, [image.name for image in part])


def _push_numbers(
    store: Store, file: CursorFile, execution: Execution, directory: Path, record: Record
) -> None:
    sent, parent = execution.sent, file.cursor.parent
    assert execution.run is not None
    assert parent.run is not None
    ended_ms = execution.ended_ms or execution.started_ms
    if not sent.summary:
        last = max(sent.samples_seen, 0)
        history = files.HistoryTail(directory / files.HISTORY).read()
        in_history = {name for line in history for name in line.values}
        values = files.summary(directory)
        points = [(name, value, last) for name, value in values.items() if name not in in_history]
        store.log_metrics(execution.run, points, ended_ms)
        sent.summary = True
        file.save()
    if not sent.headline:
        turn = sum(other.stage == execution.stage for other in file.cursor.executions)
        headline = [(files.metric_name(name), value, turn) for name, value in record.headline.items()]
        store.log_metrics(parent.run, headline, ended_ms)
        sent.headline = True
        file.save()


def _push_model(store: Store, run: str, train: Path, name: str) -> None:
    from pipeline.orchestration.mirror_model import FOLDER, write_model  # needs numpy, which costs start-up

    with tempfile.TemporaryDirectory(prefix="triptych-") as temporary:
        if write_model(train, Path(temporary)):
            store.upload_tree(run, Path(temporary), FOLDER)
            store.register(run, FOLDER, name)


def _note(file: CursorFile, execution: Execution, names: Iterable[str]) -> None:
    execution.sent.files.extend(names)
    file.save()
