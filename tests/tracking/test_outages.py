"""Killed in the middle, or the server away: afterwards nothing is missing and nothing is there twice."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.orchestration import mlflow_store
from pipeline.orchestration.mirror_cursor import CursorFile
from pipeline.orchestration.mlflow_store import Store
from pipeline.orchestration.tracking import start_mirror, sync
from tests.tracking.fake_run import SAMPLES_PER_LINE, FakeRun, config_of, write_history, write_tiles
from tests.tracking.moody_proxy import Proxy
from tests.tracking.server import Server

pytestmark = pytest.mark.slow

LINES, LATENTS, STEPS = 1200, 4, 8

KILLED_UPLOAD = """
import os, signal, sys
from pathlib import Path
from pipeline.orchestration import tracking
from pipeline.orchestration.mirror_cursor import CursorFile
from pipeline.orchestration.mlflow_store import Store
from tests.tracking.fake_run import config_of

def show(self, *arguments):
    show_images(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

show_images, Store.show = Store.show, show
tracking.sync(Path(sys.argv[1]), config_of())
"""


def finished_run(root: Path, **tracking: object) -> FakeRun:
    run = FakeRun(root, config_of(**tracking))
    write_history(run.start("train"), range(1, LINES + 1))
    run.finish("train", final=1.0)
    write_tiles(run.start("analyze"), LATENTS, STEPS, pixels=16)
    run.finish("analyze", **{"interp/mig": 0.4})
    return run


def assert_complete(server: Server) -> None:
    """Every run, step and image exactly once."""
    assert {name: [run.status for run in found] for name, found in server.runs().items()} == {
        "demo": ["FINISHED"],
        "demo:train": ["FINISHED"],
        "demo:analyze": ["FINISHED"],
    }
    train, analyze = server.only("demo:train"), server.only("demo:analyze")
    for metric in ("loss", "kl_nats"):
        assert server.steps(train, metric) == [n * SAMPLES_PER_LINE for n in range(1, LINES + 1)]
    assert server.steps(train, "final") == [LINES * SAMPLES_PER_LINE]
    assert server.steps(server.only("demo"), "interp/mig") == [1]
    assert server.images(analyze) == Counter(
        (f"traversal/z{z:02d}", k) for z in range(LATENTS) for k in range(STEPS)
    )


class Killed(BaseException):
    """Ends an upload as SIGKILL does: nothing after it happens."""


def test_killed_after_any_upload_and_started_again_leaves_no_gap_and_no_duplicate(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.orchestration.mirror.LINES_PER_STEP", 300)
    monkeypatch.setattr("pipeline.orchestration.mirror_result.IMAGES_PER_STEP", 6)
    run = finished_run(root)
    write, deaths = CursorFile.save, 0
    while True:
        notes = iter((True, True))  # a process dies before its third note, so every upload happens twice
        with monkeypatch.context() as patch:
            patch.setattr(
                CursorFile, "save", lambda self, left=notes: write(self) if next(left, False) else _die()
            )
            try:
                sync(run.directory, run.config)
                break
            except Killed:
                deaths += 1
    assert deaths >= 8
    assert_complete(Server(f"sqlite:///{root.resolve() / 'mlflow.db'}"))


def _die() -> None:
    raise Killed


def test_a_process_killed_while_it_uploads_images_is_followed_by_one_that_completes_them(root: Path) -> None:
    run = finished_run(root)
    command = [sys.executable, "-c", KILLED_UPLOAD, str(run.directory)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert "items uploaded" in sync(run.directory, run.config)[0]
    assert_complete(Server(f"sqlite:///{root.resolve() / 'mlflow.db'}"))


def test_an_error_after_the_server_took_something_repeats_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost answer: the request arrived, we saw a failure."""
    monkeypatch.setattr("pipeline.orchestration.tracking.POLL_S", 0.05)
    monkeypatch.setattr("pipeline.orchestration.tracking.FIRST_RETRY_S", 0.05)
    failing = {"create": 2, "log_metrics": 3, "show": 2}
    for method in failing:
        monkeypatch.setattr(Store, method, _failing_after(getattr(Store, method), method, failing))
    run = finished_run(root)
    mirror = start_mirror(run.directory, run.config)
    until = time.monotonic() + 240
    while any(failing.values()) and time.monotonic() < until:
        time.sleep(0.1)
    mirror.close(240.0)
    assert not any(failing.values())
    assert_complete(Server(f"sqlite:///{root.resolve() / 'mlflow.db'}"))


def _failing_after(method: object, name: str, left: dict[str, int]) -> object:
    assert callable(method)

    def wrapped(*arguments: object, **keywords: object) -> object:
        result = method(*arguments, **keywords)
        if left[name] > 0:
            left[name] -= 1
            raise ConnectionError("the answer was lost")
        return result

    return wrapped


def test_a_request_that_the_server_takes_after_we_gave_up_on_it_adds_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overloaded server: we time out, ask what is there, send again, and then it takes the first one."""
    monkeypatch.setattr("pipeline.orchestration.mirror.LINES_PER_STEP", 400)
    run, late = finished_run(root), []
    log_metrics = Store.log_metrics

    def slow(self: Store, *arguments: object) -> None:
        if len(late) < 3:
            late.append(lambda: log_metrics(self, *arguments))  # type: ignore[arg-type]
            raise TimeoutError("no answer for 10 s")
        log_metrics(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "log_metrics", slow)
        for _ in range(3):
            with pytest.raises(InputError, match="no answer for 10 s"):
                sync(run.directory, run.config)
            time.sleep(0.01)  # another millisecond, the unit of times
        sync(run.directory, run.config)
    for request in late:
        request()
    assert_complete(Server(f"sqlite:///{root.resolve() / 'mlflow.db'}"))


def test_a_run_whose_creation_the_server_takes_after_we_gave_up_on_it_is_there_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It searched for the run before the server had it, and created another one."""
    from mlflow.tracking import MlflowClient

    run, late = finished_run(root), []
    create_run, finish = MlflowClient.create_run, Store.finish

    def slow(self: object, *arguments: object, **keywords: object) -> object:
        if len(late) < 2:
            late.append(lambda: create_run(self, *arguments, **keywords))
            raise TimeoutError("no answer for 10 s")
        return create_run(self, *arguments, **keywords)

    def after_the_late(self: Store, *arguments: object) -> None:
        while late:
            late.pop()()
        finish(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    for _ in range(2):
        with pytest.raises(InputError, match="no answer for 10 s"):
            sync(run.directory, run.config)
    assert len(late) == 2
    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    monkeypatch.setattr(Store, "finish", after_the_late)
    sync(run.directory, run.config)
    assert_complete(Server(f"sqlite:///{root.resolve() / 'mlflow.db'}"))


@pytest.mark.timeout(300)
def test_a_run_whose_creation_is_not_confirmed_is_there_once(tmp_path: Path, empty_database: bytes) -> None:
    """MLflow's own client sends a request again when the connection breaks before the answer."""
    (tmp_path / "server.db").write_bytes(empty_database)
    port = _free_port()
    with _server(tmp_path, port), Proxy(port) as proxy:
        run = finished_run(tmp_path / "runs", uri=proxy.uri)
        proxy.forgets["/runs/create"] = 1
        sync(run.directory, run.config)
        assert proxy.forgets == {"/runs/create": 0}
        assert_complete(Server(f"http://127.0.0.1:{port}"))


@pytest.mark.timeout(600)
def test_a_server_that_is_away_delays_and_loses_nothing(
    tmp_path: Path, empty_database: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.orchestration.tracking.FIRST_RETRY_S", 0.5)
    (tmp_path / "server.db").write_bytes(empty_database)
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    run = FakeRun(tmp_path / "runs", config_of(uri=uri))
    mirror = start_mirror(run.directory, run.config)
    directory = run.start("train")
    started = time.monotonic()
    mirror.stage_started("train")
    write_history(directory, range(1, 401))
    assert time.monotonic() - started < 5.0
    with _server(tmp_path, port):
        _wait_until(lambda: Server(uri).runs().get("demo:train") is not None)
    write_history(directory, range(401, LINES + 1))
    run.finish("train", final=1.0)
    mirror.stage_finished("train", "FINISHED")
    write_tiles(run.start("analyze"), LATENTS, STEPS, pixels=16)
    mirror.stage_started("analyze")
    run.finish("analyze", **{"interp/mig": 0.4})
    mirror.stage_finished("analyze", "FINISHED")
    started = time.monotonic()
    said = mirror.close(20.0)
    assert time.monotonic() - started < 20.0
    assert said[0].startswith(f"MLflow at {uri} does not work now (")
    assert "sync CONFIG` uploads what waits: " in said[0]
    with pytest.raises(InputError, match="does not work now"):
        sync(run.directory, run.config)
    with _server(tmp_path, port):
        sync(run.directory, run.config)
        assert_complete(Server(uri))


@pytest.mark.timeout(600)
def test_a_server_that_falls_silent_slow_and_forgetful_in_the_middle_gets_everything_once(
    tmp_path: Path, empty_database: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on meanwhile, and makes up for it by itself when the server is well again."""
    monkeypatch.setattr("pipeline.orchestration.tracking.FIRST_RETRY_S", 0.3)
    monkeypatch.setattr("pipeline.orchestration.tracking.LONGEST_RETRY_S", 1.0)
    monkeypatch.setattr("pipeline.orchestration.tracking.POLL_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    (tmp_path / "server.db").write_bytes(empty_database)
    port = _free_port()
    with _server(tmp_path, port), Proxy(port) as proxy:
        run = FakeRun(tmp_path / "runs", config_of(uri=proxy.uri))
        mirror = start_mirror(run.directory, run.config)
        directory = run.start("train")
        mirror.stage_started("train")
        for number, mood in enumerate(("well", "silent", "forgetful", "slow", "well")):
            proxy.mood = mood
            write_history(directory, range(1 + number * LINES // 5, 1 + (number + 1) * LINES // 5))
            answered = proxy.answered
            if mood in ("well", "slow"):
                _wait_until(lambda answered=answered: proxy.answered >= answered + 2)
            else:
                _wait_until(lambda asked=proxy.asked: proxy.asked >= asked + 2)
        run.finish("train", final=1.0)
        mirror.stage_finished("train", "FINISHED")
        write_tiles(run.start("analyze"), LATENTS, STEPS, pixels=16)
        mirror.stage_started("analyze")
        run.finish("analyze", **{"interp/mig": 0.4})
        proxy.mood = "silent"
        started_s = time.monotonic()
        mirror.stage_finished("analyze", "FINISHED")
        assert time.monotonic() - started_s < 3.0, "notes never wait for a server"
        said = mirror.close(1.0)
        assert "uploads what waits" in said[0]
        proxy.mood = "well"
        _wait_until(lambda: not mirror._thread.is_alive())
        sync(run.directory, run.config)
        assert_complete(Server(f"http://127.0.0.1:{port}"))


@pytest.mark.timeout(300)
def test_two_runs_start_at_once_in_a_root_that_has_no_database_yet(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    runs = [FakeRun(root, config_of(name)) for name in ("one", "two")]
    (root / ".mlflow.db.new").write_bytes(b"half a database, its maker killed")
    script = (
        "import sys; from pathlib import Path\n"
        "from pipeline.orchestration.tracking import start_mirror\n"
        "from tests.tracking.fake_run import FakeRun, config_of, write_history\n"
        "run = FakeRun(Path(sys.argv[1]), config_of(sys.argv[2]))\n"
        "mirror = start_mirror(run.directory, run.config)\n"
        "directory = run.start('train'); mirror.stage_started('train')\n"
        "write_history(directory, range(1, 101)); run.finish('train', final=1.0)\n"
        "mirror.stage_finished('train', 'FINISHED')\n"
        "print('\\n'.join(mirror.close(200.0)))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(root), run.config.name],
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for run in runs
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    assert [error for _, error in outputs] == ["", ""], "nothing but our own words reaches the terminal"
    server = Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")
    assert {name: len(found) for name, found in server.runs().items()} == dict.fromkeys(
        ["one", "one:train", "two", "two:train"], 1
    ), outputs
    assert all(len(server.steps(server.only(f"{name}:train"), "loss")) == 100 for name in ("one", "two"))


def test_a_damaged_cursor_is_named_with_the_remedy(root: Path) -> None:
    run = finished_run(root)
    (run.directory / "mlflow.json").write_text('{"servers": {"local#tri')
    with pytest.raises(InputError, match=r"mlflow\.json: damaged.*remove the file"):
        sync(run.directory, run.config)
    (line,) = start_mirror(run.directory, run.config).close(1.0)
    assert "remove the file" in line


@contextmanager
def _server(directory: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{directory / 'server.db'}"]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    environment = {**os.environ, **mlflow_store.ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=directory, start_new_session=True
        )
        try:
            _wait_until(lambda: _answers(port))
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_until(done: object, timeout_s: float = 240.0) -> None:
    assert callable(done)
    until = time.monotonic() + timeout_s
    while True:
        try:
            if done():
                return
        except AssertionError:
            pass
        assert time.monotonic() < until
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
