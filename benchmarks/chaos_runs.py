"""Runs that are watched or killed: the command, what its processes did, and orders to kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from chaos_checks import STAGES

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "chaos.yaml"

TIMEOUT_S = 600.0
LEFT_OVER_S = 15.0

MOMENTS = (*STAGES, "between")
"""Also when the supervisor alone is at work: before, between and after stages."""

WEIGHTS = {"shard": 3, "train": 8, "evaluate": 2, "adapt": 2, "analyze": 2, "synthesize": 2, "between": 2}
"""How often each is killed, relative to the others."""

FURTHEST = {"shard": 2, "train": 3}
"""Stages that go on where they were killed: later occurrences might not come again."""

VICTIMS = {
    1: ("self", "self", "supervisor", "tree"),
    2: ("self", "rank 1", "ranks", "supervisor", "agent", "tree"),
}


@dataclass(frozen=True)
class Order:
    """One kill.

    Attributes:
        stage: While this stage runs.
        role: The process that sees the moment come.
        operation: write, rename, remove, mkdir, sync or read.
        path: Below the root, numbers and digests as #.
        count: Which one, counted from the start of the process (and stage).
        how: before it, or torn: after half of the first write to the file.
        victim: Who is killed.
    """

    stage: str
    role: str
    operation: str
    path: str
    count: int
    how: str
    victim: str


Event = tuple[str, str, str, str]
"""Stage, role, operation, path."""


class Command:
    """The same command, again and again."""

    def __init__(
        self, directory: Path, processes: int, max_restarts: int = 0, extra: Sequence[str] = ()
    ) -> None:
        directory = directory.resolve()
        directory.mkdir(parents=True)
        self.root, self.hooks = directory / "runs", directory / "hooks"
        self.hooks.mkdir()
        self.processes, self.seconds, self._said = processes, 0.0, ""
        self._log = directory / "log.txt"
        self._words = [sys.executable, "-m", "stages", "run", str(CONFIG), "--root", str(self.root)]
        self._words += ["--nproc", str(processes), *extra]
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE / "chaos_hooks"), str(HERE.parent)]),
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "MAX_RESTARTS": str(max_restarts),
            "CHAOS_DIRECTORY": str(self.hooks),
            "CHAOS_ROOT": str(self.root),
        }
        self._environment.pop("MLFLOW_TRACKING_URI", None)

    def trace(self) -> None:
        """Run to the end, noting every file operation.

        Raises:
            RuntimeError: If it fails.
        """
        while True:
            if code := self.attempt():
                raise RuntimeError(self.describe(code))
            if self.is_uploaded():
                return

    def give(self, orders: Sequence[Order]) -> None:
        """Order kills."""
        (self.hooks / "orders.json").write_text(json.dumps([asdict(order) for order in orders]))

    def attempt(self) -> int:
        """Start the command and wait; its exit code, minus the signal's number where a signal ended it."""
        started_s, before = time.monotonic(), self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("a") as log:
            process = subprocess.Popen(
                self._words, env=self._environment, cwd=self.root.parent, stdout=log, stderr=log
            )
            try:
                code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                log.write(f"hung for {TIMEOUT_S:.0f} s\n")
        self.seconds = time.monotonic() - started_s
        with self._log.open("rb") as log:
            log.seek(before)
            self._said = log.read().decode(errors="replace")
        return code

    def is_uploaded(self) -> bool:
        """Whether the last attempt left nothing for MLflow to wait for: it gives up after a minute."""
        return "uploads what waits" not in self._said

    def fired(self) -> list[dict[str, Any]]:
        """Orders that were carried out, in the order of time."""
        files = sorted(self.hooks.glob("fired-*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text()) for path in files]

    def describe(self, code: int) -> str:
        """What it said last."""
        last = " | ".join(self._said.splitlines()[-12:])
        return f"{self.root.parent.name} ended with {code}: {last}"

    def left_over(self) -> list[str]:
        """Processes that are still there some seconds after the end; killed."""
        until = time.monotonic() + LEFT_OVER_S
        while (left := _processes(self.hooks)) and time.monotonic() < until:
            time.sleep(0.2)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(left.values())


def read_events(hooks: Path) -> Counter[Event]:
    """How often which process of which stage did what, in a run that was traced."""
    found: Counter[Event] = Counter()
    for path in hooks.glob("events-*.jsonl"):
        for line in path.read_text().splitlines():
            role, stage, operation, name = json.loads(line)
            if stage in MOMENTS and role != "helper":
                found[stage, role, operation, name] += 1
    return found


def draw_orders(events: Counter[Event], count: int, random: Random, processes: int) -> list[Order]:
    """Places to kill at, as many as asked for, by stage."""
    stages = list(MOMENTS) if count >= len(MOMENTS) else []
    stages += random.choices(MOMENTS, [WEIGHTS[stage] for stage in MOMENTS], k=count - len(stages))
    victims = VICTIMS[min(processes, 2)]
    orders = []
    for stage in sorted(stages, key=MOMENTS.index):
        places = sorted(event for event in events if event[0] == stage)
        operations = sorted({event[2] for event in places} - {"read"})
        # Reads are many and alike: they stand for the time before anything is written.
        operation = random.choice([*operations, *operations, "write", "write", "read"])
        _, role, _, path = place = random.choice([event for event in places if event[2] == operation])
        often = min(events[place], FURTHEST.get(stage, events[place]))
        how = random.choice(["before", "torn", "torn"]) if operation == "write" else "before"
        victim = "self" if how == "torn" else random.choice(victims)
        orders.append(Order(stage, role, operation, path, random.randint(1, often), how, victim))
    return orders


def _processes(hooks: Path) -> dict[int, str]:
    """Processes of a run, by what they were started with."""
    mark = f"CHAOS_DIRECTORY={hooks}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                    found[int(entry.name)] = words
    return found
