"""A normal run, and the ways a run ends: what MLflow shows afterwards."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.orchestration import ledger
from pipeline.orchestration.mirror_cursor import CursorFile, only_mirror
from pipeline.orchestration.mirror_files import image_stem
from pipeline.orchestration.tracking import Mirror, reconcile, start_mirror, sync
from tests.tracking.fake_run import (
    SAMPLES_PER_LINE,
    FakeRun,
    config_of,
    write_dataset,
    write_history,
    write_pictures,
    write_tiles,
)
from tests.tracking.server import Server

pytestmark = pytest.mark.slow


def server_of(root: Path) -> Server:
    return Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")


def played(run: FakeRun, mirror: Mirror) -> None:
    """All of a small run, start to end."""
    write_dataset(run.start("shard"))
    mirror.stage_started("shard")
    run.finish("shard", samples=12_000.0)
    mirror.stage_finished("shard", "FINISHED")
    directory = run.start("train")
    mirror.stage_started("train")
    write_history(directory, range(1, 6))
    run.finish("train", final_loss=12.5)
    mirror.stage_finished("train", "FINISHED")
    directory = run.start("evaluate")
    mirror.stage_started("evaluate")
    write_pictures(directory, ["reconstruct", "translate"])
    run.finish("evaluate", **{"rgb+depth/rgb_psnr_db": 23.5, "rgb/seg_miou": 0.9})
    mirror.stage_finished("evaluate", "FINISHED")
    directory = run.start("analyze")
    mirror.stage_started("analyze")
    write_tiles(directory, latents=3, steps=3)
    run.finish("analyze", **{"interp/mig": 0.4})
    mirror.stage_finished("analyze", "FINISHED")


def test_everything_a_run_wrote_is_in_mlflow_once(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    played(run, mirror)
    lines = mirror.close(240.0)
    server = server_of(root)
    runs = server.runs()
    assert {name: [r.status for r in found] for name, found in runs.items()} == {
        name: ["FINISHED"] for name in ("demo", "demo:shard", "demo:train", "demo:evaluate", "demo:analyze")
    }
    parent = server.only("demo")
    assert all(server.only(name).parent == parent.identifier for name in runs if name != "demo")
    assert parent.metrics == {
        "samples": 12_000.0,
        "final_loss": 12.5,
        "rgb-depth/rgb_psnr_db": 23.5,
        "interp/mig": 0.4,
    }
    assert server.artifacts(parent) == ["config.yaml"]
    train = server.only("demo:train")
    assert server.steps(train, "loss") == [n * SAMPLES_PER_LINE for n in range(1, 6)]
    assert server.steps(train, "final_loss") == [5 * SAMPLES_PER_LINE]
    assert train.metrics["timing.seconds"] == 1.5
    assert train.params == {"seed": "0", "train.limit": "null", "train.nested.batch": "64"}
    assert train.tags["triptych.key"] == run.records["train"].key
    assert train.tags["triptych.processes"] == "1"
    evaluate = server.only("demo:evaluate")
    assert server.artifacts(evaluate, "pictures") == ["pictures/reconstruct.png", "pictures/translate.png"]
    assert server.images(evaluate) == Counter({
        ("at a glance/reconstruct", 0): 1,
        ("at a glance/translate", 0): 1,
    })
    assert evaluate.metrics == {"rgb-depth/rgb_psnr_db": 23.5, "rgb/seg_miou": 0.9, "timing.seconds": 1.5}
    analyze = server.only("demo:analyze")
    assert analyze.metrics == {"interp.mig": 0.4, "timing.seconds": 1.5}
    assert server.images(analyze) == Counter((f"traversal/z{z:02d}", k) for z in range(3) for k in range(3))
    assert server.artifacts(analyze, "traversal") == ["traversal/index.html"]
    assert [line.split()[0] for line in lines[1:]] == [
        "stages", "run", "dataset", "training", "pictures", "traversals"
    ]  # fmt: skip
    assert all(line.endswith("?workflowType=machine_learning") for line in lines[2:])
    assert lines[1].endswith("&workflowType=machine_learning")


def test_a_second_run_with_nothing_to_do_asks_no_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    played(run, mirror)
    first = mirror.close(240.0)
    monkeypatch.setattr("pipeline.orchestration.tracking.Store", _unwanted)
    assert start_mirror(run.directory, run.config).close(10.0) == first
    assert sync(run.directory, run.config) == ["MLflow: nothing waited", *first]


def _unwanted(target: object) -> None:
    raise AssertionError(f"opened {target}")


def test_lines_appear_while_the_stage_runs_and_a_torn_one_waits(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    directory = run.start("train")
    mirror.stage_started("train")
    write_history(directory, [1, 2])
    with (directory / "history.jsonl").open("a") as file:
        file.write('{"samples_seen": 1920, "lo')
    _wait_for(
        lambda: CursorFile(run.directory, "local#triptych").cursor.executions[0].sent.samples_seen == 1280
    )
    server = server_of(root)
    assert server.only("demo:train").status == "RUNNING"
    assert server.steps(server.only("demo:train"), "loss") == [640, 1280]
    with (directory / "history.jsonl").open("a") as file:
        file.write('ss": 3.0}\n')
    run.finish("train", final=1.0)
    mirror.stage_finished("train", "FINISHED")
    mirror.close(240.0)
    assert server.steps(server.only("demo:train"), "loss") == [640, 1280, 1920]


def test_interrupted_training_goes_on_in_the_same_run_without_repeating_a_step(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    directory = run.start("train")
    mirror.stage_started("train")
    write_history(directory, range(1, 8))
    mirror.stage_finished("train", "KILLED")
    mirror.close(240.0)
    server = server_of(root)
    assert [server.only(name).status for name in ("demo", "demo:train")] == ["KILLED", "KILLED"]
    kept = (directory / "history.jsonl").read_text().splitlines(keepends=True)[:4]
    mirror = start_mirror(run.directory, run.config)
    assert run.start("train") == directory
    mirror.stage_started("train")
    (directory / "history.jsonl").write_text("".join(kept))
    write_history(directory, range(5, 11))
    run.finish("train", final=1.0)
    mirror.stage_finished("train", "FINISHED")
    mirror.close(240.0)
    train = server.only("demo:train")
    assert (train.status, train.tags["triptych.attempt"]) == ("FINISHED", "2")
    assert server.steps(train, "loss") == [n * SAMPLES_PER_LINE for n in range(1, 11)]
    assert server.only("demo").status == "FINISHED"


def test_a_stage_with_another_key_gets_a_run_of_its_own(root: Path) -> None:
    run = FakeRun(root, config_of())
    for key, score in (("a", 1.0), ("b", 2.0)):
        mirror = start_mirror(run.directory, run.config)
        run.start("evaluate", key)
        mirror.stage_started("evaluate")
        run.finish("evaluate", score=score)
        mirror.stage_finished("evaluate", "FINISHED")
        mirror.close(240.0)
    server = server_of(root)
    first, second = server.runs()["demo:evaluate"]
    assert (first.metrics["score"], second.metrics["score"]) == (1.0, 2.0)
    assert (first.tags.get("triptych.superseded"), second.tags.get("triptych.superseded")) == ("true", None)
    assert server.only("demo").metrics == {"score": 2.0}


def test_a_forced_repetition_gets_a_run_of_its_own_too(root: Path) -> None:
    run = FakeRun(root, config_of())
    for _ in range(2):
        mirror = start_mirror(run.directory, run.config)
        run.start("evaluate")
        mirror.stage_started("evaluate")
        run.finish("evaluate", score=1.0)
        mirror.stage_finished("evaluate", "FINISHED")
        mirror.close(240.0)
    assert len(server_of(root).runs()["demo:evaluate"]) == 2


def test_a_failed_stage_says_why_and_fails_the_whole(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    run.start("adapt")
    mirror.stage_started("adapt")
    run.fail("adapt", "the loss is not finite")
    mirror.stage_finished("adapt", "FAILED")
    mirror.close(240.0)
    server = server_of(root)
    assert [server.only(name).status for name in ("demo", "demo:adapt")] == ["FAILED", "FAILED"]
    assert server.only("demo:adapt").tags["triptych.error"] == "the loss is not finite"


def test_results_made_without_tracking_are_added_by_sync(root: Path) -> None:
    run = FakeRun(root, config_of())
    played(run, start_mirror(run.directory, config_of(enabled=False)))
    assert not (run.directory / "mlflow.json").exists()
    lines = sync(run.directory, run.config)
    server = server_of(root)
    assert lines[0].endswith("uploaded")
    assert {name: len(found) for name, found in server.runs().items()} == {
        "demo": 1, "demo:shard": 1, "demo:train": 1, "demo:evaluate": 1, "demo:analyze": 1
    }  # fmt: skip
    assert sum(server.images(server.only("demo:analyze")).values()) == 9


def test_a_run_whose_process_vanished_is_shown_as_killed(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    directory = run.start("train")
    mirror.stage_started("train")
    write_history(directory, [1])
    _wait_for(
        lambda: CursorFile(run.directory, "local#triptych").cursor.executions[0].sent.samples_seen == 640
    )
    mirror.close(240.0)  # told of no end
    cursor = run.directory / "mlflow.json"
    values = json.loads(cursor.read_text())
    held = values["servers"]["local#triptych"]
    held["parent"] |= {"state": "RUNNING", "sent_state": "RUNNING"}  # as SIGKILL leaves it
    cursor.write_text(json.dumps(values))
    server = server_of(root)
    server.client.update_run(held["parent"]["run"], status="RUNNING")
    assert server.only("demo:train").status == "RUNNING"
    reconcile(run.directory, run.config)
    assert [server.only(name).status for name in ("demo", "demo:train")] == ["KILLED", "KILLED"]


def test_a_result_that_a_later_run_only_puts_in_place_is_shown_as_finished(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage was killed between its record and the renaming of its directory."""
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    write_dataset(run.start("shard"))
    mirror.stage_started("shard")
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "settle", lambda place: None)
        patch.setattr("tests.tracking.fake_run.adopt_dataset", lambda place, root: None)
        run.finish("shard", samples=12.0)
    mirror.stage_finished("shard", "FAILED")
    mirror.close(240.0)
    assert server_of(root).only("demo:shard").status == "FAILED"

    again = start_mirror(run.directory, run.config)
    place = ledger.place_of(root, "demo", "shard", run.records["shard"].key)
    ledger.settle(place)
    ledger.adopt_dataset(place, root)
    again.close(240.0)
    server = server_of(root)
    assert [server.only(name).status for name in ("demo", "demo:shard")] == ["FINISHED", "FINISHED"]
    assert sum(server.images(server.only("demo:shard")).values()) == 3
    assert server.steps(server.only("demo:shard"), "samples") == [0]


def test_two_processes_never_upload_the_same_run(root: Path) -> None:
    run = FakeRun(root, config_of())
    with only_mirror(run.directory):
        assert start_mirror(run.directory, run.config).close(1.0) == [
            "MLflow: another process uploads this run just now"
        ]


def test_runs_deleted_in_the_browser_are_made_anew_by_sync(root: Path) -> None:
    run = FakeRun(root, config_of())
    mirror = start_mirror(run.directory, run.config)
    played(run, mirror)
    mirror.close(240.0)
    server = server_of(root)
    for found in server.runs().values():
        server.client.delete_run(found[0].identifier)
    run.start("adapt")
    run.finish("adapt", gain=1.0)
    sync(run.directory, run.config)
    assert {name: len(found) for name, found in server.runs().items()} == dict.fromkeys(
        ["demo", "demo:shard", "demo:train", "demo:evaluate", "demo:analyze", "demo:adapt"], 1
    )


def test_images_are_named_as_mlflow_itself_names_them(root: Path, tmp_path: Path) -> None:
    from PIL import Image

    server = server_of(root)
    identifier = server.client.create_run("0").info.run_id
    server.client.log_image(identifier, Image.new("RGB", (8, 8)), key="traversal/z07", step=3, timestamp=1234)
    names = sorted(
        Path(path).name for path in server.artifacts(server.runs("Default").popitem()[1][0], "images")
    )
    uuid_length = 36
    ours = image_stem("traversal/z07", 3, 1234, "token")
    assert [name[: -len(".png") - uuid_length] for name in names if name.endswith(".png")] == [
        ours[:-uuid_length]
    ]
    assert [name.partition("+compressed")[2] for name in names if name.endswith(".webp")] == [".webp"]


def _wait_for(done: object, timeout_s: float = 240.0) -> None:
    assert callable(done)
    until = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
