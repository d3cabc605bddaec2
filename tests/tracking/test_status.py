"""How far a run is, asked from outside: from files, and without ever waiting for a tracking server."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.orchestration.checkpoint_seen import newest_checkpoint
from pipeline.orchestration.compared import comparison_status, write_members
from pipeline.orchestration.ledger import adopt_dataset, begin, commit
from pipeline.orchestration.lock import hold
from pipeline.orchestration.mirror_reach import server_answers
from pipeline.orchestration.mlflow_store import Target
from pipeline.orchestration.origin import Origin
from pipeline.orchestration.plan import plan
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.report import status_text
from pipeline.orchestration.stage import Manifest
from pipeline.orchestration.status import status
from pipeline.orchestration.tracking import reconcile, start_mirror, tracking_status
from pipeline.training.checkpoint_files import candidates
from tests.tracking.fake_run import FakeRun, config_of, write_dataset, write_history

ORIGIN = Origin("/somewhere/demo.yaml", shown="demo.yaml")


def write_checkpoint(root: Path, samples: int, content: bytes = b"weights") -> Path:
    directory = root / f"{samples:012d}"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(content)
    digests = {"model.safetensors": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps({"sha256": digests}))
    return directory


def begun(root: Path, **tracking: object) -> tuple[Config, Path]:
    """A run whose dataset is there and whose training was begun with two processes."""
    config = config_of(**tracking)
    shard = plan(config, root)[0]
    assert shard.place is not None
    assert shard.wanted is not None
    record = begin(shard.place, shard.wanted)
    write_dataset(shard.place.working)
    (shard.place.working / "index.parquet").write_bytes(b"rows")
    commit(shard.place, record, Manifest({"samples/train": 12.0}), root)
    adopt_dataset(shard.place, root)
    train = plan(config, root)[1]
    assert train.place is not None
    assert train.wanted is not None
    begin(train.place, replace(train.wanted, execution={"processes": 2, "threads": 1}))
    return config, root / config.name


def test_a_run_at_work_tells_how_far_it_is_who_does_it_and_what_is_saved(tmp_path: Path) -> None:
    config, directory = begun(tmp_path, enabled=False)
    write_history(directory / "train", [1, 2])
    write_checkpoint(directory / "train" / "checkpoints", 640)
    progress = Progress("train", silent=False, file=directory / ".progress.json")
    progress.start("training", 50_000, "samples", done=640)
    progress._started_s -= 2.0
    progress._written_s = 0.0
    progress.advance(640)
    with hold(directory / "lock.json"):
        said = status(config, tmp_path, ORIGIN)
        text = status_text(said)
    train = said["stages"][1]
    assert (train["stage"], train["state"], train["processes"]) == ("train", "running", 2)
    assert train["progress"]["done"] == 1280
    assert train["progress"]["total"] == 50_000
    assert train["progress"]["per_second"] == pytest.approx(320, rel=0.2)
    assert train["progress"]["eta_s"] == pytest.approx(48_720 / 320, rel=0.2)
    assert 0.0 <= said["holder"]["heartbeat_age_s"] < 60.0
    assert (said["checkpoint"]["name"], said["checkpoint"]["valid"]) == ("000000000640", True)
    assert said["next"] is None, "it is at work"
    for part in ("1280/50000 samples", "2 processes", "000000000640, 640 samples", "heard of"):
        assert part in text
    json.dumps(said)
    after = status(config, tmp_path, ORIGIN)
    assert after["stages"][1]["state"] == "interrupted"
    assert after["next"] == "triptych run demo.yaml"


def test_the_newest_checkpoint_that_is_whole_is_named_and_so_are_damaged_ones(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for samples in (640, 1280, 1920, 2560):
        write_checkpoint(tmp_path, samples)
    (tmp_path / "000000002560" / "model.safetensors").write_bytes(b"weightz")
    (tmp_path / "000000001920" / "model.safetensors").unlink()
    (tmp_path / ".saving-000000003200").mkdir()
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert (said["name"], said["samples"], said["valid"]) == ("000000001280", 1280, True)
    assert list(said["damaged"]) == ["000000002560", "000000001920"]
    assert "does not match its checksum" in said["damaged"]["000000002560"]
    for path in tmp_path.glob("0*/manifest.json"):
        path.write_text("{}")
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert said["name"] is None
    assert len(said["damaged"]) == 4


def test_the_best_is_named_where_nothing_newer_is_whole(tmp_path: Path) -> None:
    """Also where a kill came between the two renames of an exchange of the best."""
    for samples in (640, 1280):
        write_checkpoint(tmp_path, samples)
    (tmp_path / "000000000640").rename(tmp_path / "best")
    (tmp_path / "best" / "best.json").write_text('{"samples_seen": 640, "val_loss": 1.5}')
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert said["name"] == "000000001280"
    (tmp_path / "000000001280" / "model.safetensors").unlink()
    for name in ("best", ".previous-best"):
        (tmp_path / "best").rename(tmp_path / name)
        said = newest_checkpoint(tmp_path)
        assert said is not None
        assert (said["name"], said["samples"], said["valid"]) == (name, 640, True)
        assert list(said["damaged"]) == ["000000001280"]
    assert [path.name for path in candidates(tmp_path)] == ["000000001280", "best"], "training takes the same"
    (tmp_path / "best" / "best.json").write_text("{}")
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert (said["name"], set(said["damaged"])) == (None, {"000000001280", "best"})


def test_parts_of_divided_weights_are_compared_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 640)
    manifest = tmp_path / "000000000640" / "manifest.json"
    for name in (".metadata", "__0_0.distcp"):
        (manifest.parent / name).write_bytes(b"part")
        digests = json.loads(manifest.read_text())["sha256"] | {name: hashlib.sha256(b"part").hexdigest()}
        manifest.write_text(json.dumps({"sha256": digests}))
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert said["valid"] is True
    (manifest.parent / "__0_0.distcp").write_bytes(b"trap")
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert said["damaged"] == {"000000000640": "__0_0.distcp does not match its checksum"}


def test_large_checkpoints_are_not_read_for_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.orchestration.checkpoint_seen.READ_BYTES", 3)
    write_checkpoint(tmp_path, 640)
    said = newest_checkpoint(tmp_path)
    assert said is not None
    assert (said["name"], said["valid"]) == ("000000000640", None)


def target(port: int) -> Target:
    return Target(f"http://127.0.0.1:{port}", "triptych", None, "server")


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield server.getsockname()[1]


@pytest.fixture
def swallowing() -> Iterator[int]:
    """A port whose packets are dropped, since nobody accepts and its queue is full."""
    with ExitStack() as sockets:
        server = sockets.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_server_answers_only_if_it_does_so_in_time(silent: int, swallowing: int) -> None:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server_answers(target(server.server_port)) is True
        elsewhere = Target(f"http://127.0.0.1:{server.server_port}/other", "triptych", None, "server")
        assert server_answers(elsewhere) is False
        server.shutdown()
    assert server_answers(target(silent), 0.3) is False
    assert server_answers(target(swallowing), 0.3) is False
    assert server_answers(target(9), 0.3) is False
    assert server_answers(Target("sqlite:///x.db", "triptych", None, "local")) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["silent", "swallowing"])
def test_status_does_not_wait_for_a_server_that_says_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = f"http://127.0.0.1:{request.getfixturevalue(kind)}"
    config, directory = begun(tmp_path, uri=uri)
    said = status(config, tmp_path, ORIGIN)
    assert said["tracking"] == {"server": uri, "answers": False, "waiting": 0}
    assert f"MLflow at {uri} does not answer now; nothing waits" in status_text(said)
    reconcile(directory, config, timeout_s=0.2)


def test_what_waits_for_the_server_is_counted(tmp_path: Path) -> None:
    config, directory = begun(tmp_path, uri="http://127.0.0.1:9")
    write_history(directory / "train", range(1, 6))
    mirror = start_mirror(directory, config)
    mirror.stage_started("train")
    mirror.close(0.0)
    said = tracking_status(directory, config)
    assert said is not None
    assert said["answers"] is False
    assert said["waiting"] >= 5
    assert tracking_status(directory, config_of(enabled=False)) is None


def test_a_comparison_is_mentioned_with_how_far_it_is(tmp_path: Path) -> None:
    config = config_of(enabled=False)
    assert status(config, tmp_path, ORIGIN)["comparison"] is None
    done = FakeRun(tmp_path, config_of("demo-vae-s0", enabled=False))
    for stage in ("train", "evaluate"):
        done.start(stage)
        done.finish(stage, loss=1.0)
    failed = FakeRun(tmp_path, config_of("demo-gan-s0", enabled=False))
    failed.start("train")
    failed.fail("train", "a number was not finite")
    begun_run = FakeRun(tmp_path, config_of("demo-ae-s0", enabled=False))
    begun_run.start("train")
    directory = tmp_path / "demo-compare"
    directory.mkdir()
    runs = ["demo-vae-s0", "demo-gan-s0", "demo-ae-s0", "demo-wae-s0"]
    write_members(directory, runs, "triptych compare demo.yaml --systems vae,gan,ae,wae --seeds 1")
    said = status(config, tmp_path, ORIGIN)
    states = ["complete", "failed", "interrupted", "absent"]
    assert said["comparison"]["runs"] == dict(zip(runs, states, strict=True))
    assert said["comparison"]["next"].startswith("triptych compare demo.yaml")
    assert said["next"] is None, "there is no run of the config itself to go on with"
    text = status_text(said)
    assert "comparison demo-compare: 1 of 4 runs done, 1 failed, 1 interrupted, 1 absent" in text
    assert "triptych compare demo.yaml --systems vae,gan,ae,wae --seeds 1" in text
    with hold(directory / "lock.json"):
        held = comparison_status(tmp_path, "demo")
    assert held is not None
    assert held["next"] is None
    assert held["heartbeat_age_s"] >= 0.0
