import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.orchestration.ledger import Record, adopt_dataset, begin, commit
from pipeline.orchestration.plan import Selection, Step, plan
from pipeline.orchestration.stage import STAGES, Manifest, StageName

CHECKOUT = Path(__file__).parents[2]

TINY = """\
name: tiny
data:
  source: {kind: rooms, count: 10}
  held_out: {factors: {shape: [capsule]}}
train: {samples: 256, batch: 64}
tracking: {enabled: false}
"""


@dataclass
class Terminal:
    """A working directory with `tiny.yaml`, and the command with fake stages."""

    directory: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, *words: str, module: str = "tests.launch.fake_command", **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def type(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def await_file(self, pattern: str) -> Path:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for found in self.directory.glob(pattern):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{pattern} did not appear")

    def processes(self) -> dict[int, str]:
        """Command lines of the processes that work in this directory."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").resolve() == self.directory:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return {pid: line for pid, line in found.items() if line}

    def await_no_process(self) -> None:
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.processes() == {}

    def refused(self, *words: str, **environment: str) -> str:
        """The one message of a command that must exit with 2 and no traceback."""
        result = self.type(*words, **environment)
        assert result.returncode == 2, result
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    terminal = Terminal(tmp_path)
    yield terminal
    for pid in terminal.processes():
        os.kill(pid, signal.SIGKILL)
    for process in terminal.started:
        process.communicate()


@dataclass
class Run:
    """A run whose stages are finished by hand, without processes."""

    directory: Path
    overrides: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.directory / "runs"

    def steps(self, *overrides: str, **selection: object) -> dict[StageName, Step]:
        config = load_config(self.directory / "tiny.yaml", [*self.overrides, *overrides])
        chosen = Selection(**selection)  # type: ignore[arg-type]
        return {step.stage: step for step in plan(config, self.root, chosen)}

    def begin(self, stage: StageName) -> tuple[Step, Record]:
        step = self.steps()[stage]
        assert step.place is not None
        assert step.wanted is not None
        record = begin(step.place, step.wanted, anew=step.verb == "run")
        (step.place.working / "result.txt").write_text(stage)
        if stage == "train":
            (step.place.working / "model.safetensors").write_text(str(step.wanted.config["train"]))
            (step.place.working / "model.json").write_text("{}")
        return step, record

    def finish(self, stage: StageName) -> None:
        step, record = self.begin(stage)
        assert step.place is not None
        commit(step.place, record, Manifest({"score": 1.0}, ("score",), {"result": "result.txt"}), self.root)
        if stage == "shard":
            adopt_dataset(step.place, self.root)

    def finish_all(self) -> None:
        for stage in STAGES:
            self.finish(stage)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return Run(tmp_path)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
