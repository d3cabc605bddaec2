"""Two machines, played by two network namespaces: nothing but the disk and a cable joins them."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.orchestration.ledger import read_record
from tests.launch.conftest import CHECKOUT

NETWORK = "10.77.31"
PORT = 29431

CONFIG = """\
data: {source: {kind: rooms, count: 48}, image_size: 32, workers: 1}
model: {latent: 6, private: {rgb: 3}, width: 8}
train:
  samples: 3072
  batch: 32
  log_samples: 64
  checkpoint_samples: 64
  keep_checkpoints: 1000
  precision: fp32
  device: cpu
  loading: {workers: 0}
tracking: {enabled: false}
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def has_namespaces() -> bool:
    """Whether this machine lets us make them: root, iproute2, and a kernel or container that allows it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        ip("netns", "add", f"tprobe{os.getpid()}")
        ip("netns", "del", f"tprobe{os.getpid()}")
    except subprocess.CalledProcessError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_namespaces(), reason="needs root, iproute2 and network namespaces"),
]


class Host:
    """A machine of its own network, on the disk of all."""

    def __init__(self, number: int, directory: Path) -> None:
        self.name, self.directory = f"triptych{os.getpid()}h{number}", directory
        self._starts = 0
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        self._starts += 1
        command = ["ip", "netns", "exec", self.name, str(CHECKOUT / "launch.sh"), *words]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.{self._starts}.log"

    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, check=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def ranks(self) -> set[str]:
        """Of the processes of a stage that run here."""
        found = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {entry.decode() for entry in variables if entry.startswith(b"RANK=")}
        return found

    def lose(self) -> None:
        """Every process at once, as when the power fails."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    pair = Host(1, tmp_path), Host(2, tmp_path)
    cables = [f"tp{os.getpid()}{end}" for end in "ab"]
    for host in pair:
        ip("netns", "add", host.name)
    try:
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for number, (host, cable) in enumerate(zip(pair, cables, strict=True), start=1):
            ip("link", "set", cable, "netns", host.name)
            ip("-n", host.name, "addr", "add", f"{NETWORK}.{number}/24", "dev", cable)
            ip("-n", host.name, "link", "set", "lo", "up")
            ip("-n", host.name, "link", "set", cable, "up")
        yield pair
    finally:
        for host in pair:
            host.lose()
            ip("netns", "del", host.name)


def wait_for(happened: Callable[[], object], what: str, *hosts: Host) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, "\n".join([what, *(host.said() for host in hosts)])
        time.sleep(0.02)


def checkpoints(run: Path) -> int:
    return len(list(run.glob("train/checkpoints/0*")))


def test_loses_a_machine_goes_on_with_it_and_ends_alone_with_the_same_model(hosts: tuple[Host, Host]) -> None:
    other, lead = hosts  # c10d by itself would number the machine with the lower address first
    runs = lead.directory / "runs"
    alone = lead.start("run", "tiny.yaml", "--until", "train", "--set", "name=alone", "--nproc", "1")
    assert alone.wait(300) == 0, lead.said()

    words = ("multinode", "tiny.yaml", "--until", "train", "--set", "name=two")
    environment = {
        "NNODES": "2",
        "NPROC_PER_NODE": "1",
        "RDZV_ENDPOINT": f"{NETWORK}.2:{PORT}",
        "RDZV_TIMEOUT": "120",
    }
    leading = lead.start(*words, **environment)
    following = other.start(*words, **environment)
    wait_for(lambda: checkpoints(runs / "two") > 1, "no checkpoint", lead, other)
    record = read_record(runs / "two" / "train")
    assert record is not None
    assert record.execution["processes"] == 2
    assert (lead.ranks(), other.ranks()) == ({"RANK=0"}, {"RANK=1"})

    other.lose()
    before = checkpoints(runs / "two")
    following = other.start(*words, **environment)
    wait_for(lambda: checkpoints(runs / "two") > before + 2, "did not go on", lead, other)
    assert f"({NETWORK}.1) is lost; what is saved is intact" in lead.said()
    assert leading.poll() is None

    following.send_signal(signal.SIGTERM)
    assert (leading.wait(120), following.wait(120)) == (75, 75), lead.said() + other.said()
    assert "Traceback" not in lead.said() + other.said()
    record = read_record(runs / "two" / "train")
    assert record is not None
    assert (record.state, record.attempts) == ("running", 2)

    last = lead.start("run", *words[1:], "--nproc", "1")
    assert last.wait(300) == 0, lead.said()
    assert "train: continue (interrupted)" in lead.said()
    expected = load_file(runs / "alone" / "train" / "model.safetensors")
    found = load_file(runs / "two" / "train" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0.02, atol=2e-3, err_msg=name)
