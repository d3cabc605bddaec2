"""One writer per directory: a lock that names its holder, and that a dead holder loses."""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.durable import write_json
from pipeline.errors import InputError, Interrupted

HEARTBEAT_S = 10.0
DEAD_AFTER_S = 60.0
"""A holder on another host is dead when its heartbeat is older than this."""

WAIT_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: Its host name.
        pid: Its process.
        process_started: Clock ticks from boot to the start of that process, so that a later
            process with the same number is not taken for it; 0 where unknown.
        since: When it took the lock, seconds since 1970.
        heartbeat: When it last said that it lives.
    """

    host: str
    pid: int
    process_started: int
    since: float
    heartbeat: float

    def is_alive(self) -> bool:
        """Whether the holder still works, as far as can be known from here."""
        if self.host == socket.gethostname():
            return _process_started(self.pid) == self.process_started
        return time.time() - self.heartbeat < DEAD_AFTER_S

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}"


@contextmanager
def hold(
    path: Path, *, wait: bool = False, thing: str = "", stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the lock file at `path` for the duration of the block.

    Args:
        path: The lock file; its directory is made.
        wait: Wait for a live holder instead of refusing.
        thing: What is locked, for the message; the lock's directory by default.
        stop_requested: Whether to give up waiting.

    Raises:
        InputError: If a live process holds it and `wait` is false.
        Interrupted: If asked to stop while waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _myself()
    announced = False
    while (other := _take(path, mine)) is not None:
        if not wait:
            raise InputError(
                f"{thing or path.parent}: in use by {other}; let it finish or stop it, or add --wait"
            )
        if stop_requested():
            raise Interrupted
        if not announced:
            print(f"triptych: {thing or path.parent}: waiting for {other}", file=sys.stderr, flush=True)
            announced = True
        time.sleep(WAIT_INTERVAL_S)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, done), name="heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        _release(path, mine)


def read_holder(path: Path) -> Holder | None:
    """Who is written in a lock file; None when there is none, or nobody can be read in it."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _take(path: Path, mine: Holder) -> Holder | None:
    """Write ourselves into the lock, or return who lives in it."""
    with _guarded(path):
        holder = read_holder(path)
        if holder and holder.is_alive():
            return holder
        write_json(path, asdict(mine))
        return None


def _release(path: Path, mine: Holder) -> None:
    with _guarded(path):
        if _is_mine(read_holder(path), mine):
            path.unlink()


def _beat(path: Path, mine: Holder, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_S):
        try:
            with _guarded(path):
                if _is_mine(read_holder(path), mine):
                    write_json(path, asdict(replace(mine, heartbeat=time.time())))
        except OSError:
            pass  # a full disk must not end the run; the next beat tries again


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Exclusive while looking at a lock and replacing it; the kernel frees it when a process dies."""
    with path.with_name(f".{path.name.strip('.')}.guard").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without flock: the window between look and replace stays open
        yield


def _is_mine(holder: Holder | None, mine: Holder) -> bool:
    return holder is not None and replace(holder, heartbeat=mine.heartbeat) == mine


def _myself() -> Holder:
    now = time.time()
    return Holder(socket.gethostname(), os.getpid(), _process_started(os.getpid()) or 0, now, now)


def _process_started(pid: int) -> int | None:
    """Clock ticks from boot to a process's start; 0 where the system does not say; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _exists(pid)
    state, *numbers = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(numbers[18])


def _exists(pid: int) -> int | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
