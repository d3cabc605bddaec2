"""MLflow's pages on this machine: a server of our own on 127.0.0.1, ended with Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline.config import Config
from pipeline.errors import InputError, command_name
from pipeline.orchestration.mirror_cursor import CURSOR, CursorFile
from pipeline.orchestration.mirror_notes import links
from pipeline.orchestration.mlflow_store import ENVIRONMENT, UI_PORT, Target, target_of

SERVER_LOG = ".mlflow-server.log"
PORTS_TRIED = 20
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGINT too: a shell starts what it puts in the background with Ctrl-C ignored."""
RUNS_SHOWN = 5


def serve(root: Path, config: Config | None = None, port: int | None = None) -> int:
    """Show the runs under a root until interrupted; with a server elsewhere, only print its links.

    Args:
        root: The directory all runs live under.
        config: Links of this run alone; None: of the newest runs.
        port: Where to serve; None: the first free one from 5000.

    Returns:
        The exit code: 0 when ended by the user.

    Raises:
        InputError: If there are no runs, no port is free, or the server does not start.
    """
    target = target_of(config, root)
    if target.is_server:
        _print_links(target, target.base, root, config)
        return 0
    if target.database is not None and not target.database.is_file():
        raise InputError(
            f"no runs in MLflow yet under {root}; start one with `{command_name()} run CONFIG`, or upload "
            f"finished ones with `{command_name()} sync CONFIG`"
        )
    free = _free_port(UI_PORT, PORTS_TRIED) if port is None else _free_port(port, 1)
    print(f"MLflow starts on port {free} ...", flush=True)
    try:
        with _server(target, root, free) as process:
            _await_answer(process, free, root / SERVER_LOG)
            _print_links(target, f"http://127.0.0.1:{free}", root, config)
            print("Ctrl-C ends it.", flush=True)
            return process.wait()
    except KeyboardInterrupt:
        print(flush=True)
        return 0


@contextmanager
def _server(target: Target, root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, which is gone after the block."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", target.uri]
    if target.artifacts:
        command += ["--artifacts-destination", target.artifacts.as_uri()]
    environment = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    with (root / SERVER_LOG).open("wb") as log, _terminated_by_signals():
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            _end(process)


def _await_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    address = f"http://127.0.0.1:{port}/health"
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise InputError(f"MLflow's server did not start; what it says is in {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group, workers included."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _terminated_by_signals() -> Iterator[None]:
    """Treat every way of stopping as Ctrl-C, so that no server is left behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port(first: int, tried: int) -> int:
    last = first + tried - 1
    for port in range(first, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError:
                raise InputError(
                    f"port {port} needs special rights; choose one from 1024 with --port"
                ) from None
            except OSError:
                continue
            return port
    taken = f"port {first} is taken" if tried == 1 else f"ports {first} to {last} are all taken"
    raise InputError(f"{taken}; choose another with --port")


def _print_links(target: Target, base: str, root: Path, config: Config | None) -> None:
    print(f"MLflow: {base}")
    directories = [root / config.name] if config else _newest_runs(root)
    for directory in directories:
        if not (directory / CURSOR).is_file():
            continue
        found = links(base, directory.name, CursorFile(directory, target.name).cursor)
        for number, (label, address) in enumerate(found.items()):
            print(f"  {directory.name if number == 0 else '':<12} {label:<11}{address}")


def _newest_runs(root: Path) -> list[Path]:
    cursors = sorted(root.glob(f"*/{CURSOR}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in cursors[:RUNS_SHOWN]]
