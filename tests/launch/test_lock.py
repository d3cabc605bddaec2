"""One writer at a time; the dead do not count."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import InputError, Interrupted
from pipeline.orchestration import lock
from pipeline.orchestration.lock import Holder, hold, read_holder
from tests.launch.conftest import CHECKOUT


def write(path: Path, **changes: object) -> None:
    now = time.time()
    holder = Holder(socket.gethostname(), os.getpid(), lock._process_started(os.getpid()) or 0, now, now)
    path.write_text(json.dumps(asdict(holder) | changes))


def test_live_holder_is_named_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with hold(path), pytest.raises(InputError) as refused, hold(path):
        pass
    assert f"process {os.getpid()} on {socket.gethostname()} since " in str(refused.value)
    assert "--wait" in str(refused.value)


def test_lock_is_gone_afterwards(tmp_path: Path) -> None:
    with hold(tmp_path / "lock.json"):
        assert read_holder(tmp_path / "lock.json") is not None
    assert not (tmp_path / "lock.json").exists()


def test_process_that_is_gone_loses_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(path, pid=ended.pid)
    with hold(path):
        holder = read_holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()


def test_later_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    write(tmp_path / "lock.json", process_started=1)
    with hold(tmp_path / "lock.json"):
        pass


@pytest.mark.parametrize(("age_s", "alive"), [(5, True), (120, False)])
def test_holder_elsewhere_lives_as_long_as_its_heart_beats(tmp_path: Path, age_s: float, alive: bool) -> None:
    path = tmp_path / "lock.json"
    write(path, host="elsewhere", heartbeat=time.time() - age_s)
    if alive:
        with pytest.raises(InputError, match="on elsewhere"), hold(path):
            pass
    else:
        with hold(path):
            pass


def test_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    with hold(tmp_path / "lock.json"):
        first = read_holder(tmp_path / "lock.json")
        time.sleep(0.3)
        second = read_holder(tmp_path / "lock.json")
    assert first is not None
    assert second is not None
    assert second.heartbeat > first.heartbeat


def test_unreadable_lock_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("{")
    with hold(tmp_path / "lock.json"):
        pass


def test_waiting_ends_when_asked_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with hold(path), pytest.raises(Interrupted), hold(path, wait=True, stop_requested=lambda: True):
        pass


CONTENDER = """
import sys, time
from pathlib import Path
from pipeline.orchestration.lock import hold

count = Path(sys.argv[1]) / "count"
for _ in range(5):
    with hold(Path(sys.argv[1]) / "lock.json", wait=True):
        before = int(count.read_text())
        time.sleep(0.01)
        count.write_text(str(before + 1))
"""


def test_contenders_never_hold_it_together(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    write(tmp_path / "lock.json", process_started=1)  # all start by taking over from the dead
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    assert [contender.wait(timeout=120) for contender in contenders] == [0, 0, 0, 0]
    assert (tmp_path / "count").read_text() == "20"
