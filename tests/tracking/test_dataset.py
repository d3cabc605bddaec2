"""What MLflow knows of a dataset: its pictures, and which run made or read it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.orchestration.mirror_dataset import lineage
from pipeline.orchestration.stage import STAGES
from pipeline.orchestration.tracking import start_mirror, sync
from tests.tracking.fake_run import FakeRun, config_of, write_dataset, write_history
from tests.tracking.server import Run, Server

pytestmark = pytest.mark.slow


def server_of(root: Path) -> Server:
    return Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")


def finished(run: FakeRun, train: int = 12_000, shard_key: str = "") -> None:
    """Every stage, without tracking."""
    for stage in STAGES:
        directory = run.start(stage, shard_key if stage == "shard" else "")
        if stage == "shard":
            write_dataset(directory, train)
        run.finish(stage, samples=float(train))


def read_by(run: Run) -> list[tuple[str, str, str]]:
    """Name, digest and context of every dataset of a run."""
    return [
        (
            entry.dataset.name,
            entry.dataset.digest,
            {tag.key: tag.value for tag in entry.tags}["mlflow.data.context"],
        )
        for entry in run.inputs
    ]


def test_every_stage_names_the_dataset_and_what_it_does_with_it(root: Path) -> None:
    run = FakeRun(root, config_of())
    finished(run)
    sync(run.directory, run.config)
    server = server_of(root)
    digest = run.records["shard"].digest[:36]
    assert {stage: read_by(server.only(f"demo:{stage}")) for stage in STAGES} == {
        "shard": [("rooms 64 px", digest, "made")],
        "train": [("rooms 64 px", digest, "training")],
        "evaluate": [("rooms 64 px", digest, "testing")],
        "adapt": [("rooms 64 px", digest, "adaptation")],
        "analyze": [("rooms 64 px", digest, "testing")],
        "synthesize": [("rooms 64 px", digest, "reference")],
    }
    (entry,) = server.only("demo:train").inputs
    assert json.loads(entry.dataset.source) == {"uri": "datasets/shardshardshards"}
    columns = json.loads(entry.dataset.schema)["mlflow_colspec"]
    assert [(column["name"], column["type"]) for column in columns] == [
        ("rgb", "uint8 (64, 64, 3)"),
        ("depth", "float32 (64, 64) metres"),
        ("seg", "uint8 (64, 64), 3 classes"),
    ]
    profile = json.loads(entry.dataset.profile)
    assert profile["num_rows"] == 12_008
    assert profile["samples"] == {"train": 12_000, "test": 8}
    assert profile["quarantine"] == {"truncated": 3}
    assert profile["sha256"] == run.records["shard"].digest


def test_the_run_that_made_it_shows_its_pictures(root: Path) -> None:
    run = FakeRun(root, config_of())
    finished(run)
    sync(run.directory, run.config)
    server = server_of(root)
    shard = server.only("demo:shard")
    names = ("classes", "contact_sheet", "depth")
    assert server.artifacts(shard, "pictures") == [f"pictures/{name}.png" for name in names]
    assert server.images(shard) == Counter((f"at a glance/{name}", 0) for name in names)


def test_a_second_run_of_the_same_dataset_shows_them_too_and_names_the_same_dataset(root: Path) -> None:
    for name in ("one", "two"):
        run = FakeRun(root, config_of(name))
        finished(run)
        sync(run.directory, run.config)
    server = server_of(root)
    assert sum(server.images(server.only("two:shard")).values()) == 3
    one, two = (server.only(f"{name}:train").inputs[0].dataset for name in ("one", "two"))
    assert (one.name, one.digest, one.source) == (two.name, two.digest, two.source)


def test_a_continued_stage_names_its_dataset_once(root: Path) -> None:
    run = FakeRun(root, config_of())
    write_dataset(run.start("shard"))
    run.finish("shard", samples=1.0)
    for lines in (range(1, 4), range(4, 8)):
        mirror = start_mirror(run.directory, run.config)
        directory = run.start("train")
        mirror.stage_started("train")
        write_history(directory, lines)
        mirror.stage_finished("train", "KILLED")
        mirror.close(240.0)
    assert len(read_by(server_of(root).only("demo:train"))) == 1


def test_a_note_that_was_lost_costs_no_second_dataset(root: Path) -> None:
    run = FakeRun(root, config_of())
    finished(run)
    sync(run.directory, run.config)
    cursor = run.directory / "mlflow.json"
    values = json.loads(cursor.read_text())
    for execution in values["servers"]["local#triptych"]["executions"]:
        execution["sent"] |= {"dataset": False, "state": "RUNNING", "files": []}
    cursor.write_text(json.dumps(values))
    sync(run.directory, run.config)
    server = server_of(root)
    assert [len(server.only(f"demo:{stage}").inputs) for stage in STAGES] == [1] * len(STAGES)
    assert sum(server.images(server.only("demo:shard")).values()) == 3


def test_a_stage_keeps_the_dataset_it_read_when_the_run_makes_another(root: Path) -> None:
    run = FakeRun(root, config_of())
    finished(run)
    first = run.records["train"]
    finished(run, train=500, shard_key="other")
    old, new = lineage(run.directory, first), lineage(run.directory, run.records["train"])
    assert old is not None
    assert new is not None
    assert old.digest != new.digest
    assert (old.profile["num_rows"], new.profile["num_rows"]) == (12_008, 508)


def test_a_dataset_that_cannot_be_read_is_still_named(root: Path) -> None:
    run = FakeRun(root, config_of())
    finished(run)
    (root / "datasets" / ("shard" * 4)[:16] / "dataset.json").write_text("{")
    found = lineage(run.directory, run.records["train"])
    assert found is not None
    assert (found.source, found.digest) == (
        "datasets/shardshardshards",
        run.records["shard"].digest[:36],
    )
