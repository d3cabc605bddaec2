"""A real SLURM of two nodes: our script trains on both, is preempted, queues again and goes on.

The stand-ins of test_cluster_slurm.py say what the script asks of SLURM, this says that SLURM agrees.
Skipped where Debian's slurmctld, slurmd, slurm-client and munge are not installed, or without root.
"""

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import __main__ as command
from tests.launch import small_slurm
from tests.launch.conftest import CHECKOUT
from tests.launch.small_slurm import Slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not small_slurm.is_possible(), reason="no SLURM to start here, or no root"),
]

SMALL = """\
name: small
data:
  source: {kind: rooms, count: 64}
  image_size: 32
model: {latent: 8, private: {rgb: 4}, width: 8}
train: {samples: 2400, batch: 16, log_samples: 160, checkpoint_samples: 3200, precision: fp32, device: cpu}
tracking: {enabled: false}
"""

WAITS = """\
#!/usr/bin/env bash
trap 'exit 75' TERM
touch started
for _ in $(seq 600); do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with small_slurm.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**slurm.environment, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "small.yaml").write_text(SMALL)


def submit(capsys: pytest.CaptureFixture[str]) -> str:
    """The job's number."""
    words = ("--nodes", "2", "--cpus-per-task", "1", "--time", "0:20:00", "--until", "train")
    assert command.main(["slurm", "small.yaml", *words]) == 0
    found = re.search(r"job (\d+) is in the queue", capsys.readouterr().err)
    assert found
    return found[1]


def samples_seen() -> list[int]:
    history = Path("runs/small/train/history.jsonl")
    return [json.loads(line)["samples_seen"] for line in history.read_text().splitlines()]


def await_file(path: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not (Path(path).exists() and Path(path).stat().st_size):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def preempt(slurm: Slurm, job: str) -> None:
    """What SLURM does the announced time before a job's end: TERM for the batch script alone."""
    slurm.call("scancel", "--batch", f"--signal={signal.Signals.SIGTERM.name}", job)


@pytest.mark.skipif(not (CHECKOUT / ".venv/ready").exists(), reason="launch.sh has made no environment yet")
def test_preempted_job_is_requeued_and_goes_on_where_it_stopped(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit(capsys)
    await_file("runs/small/train/history.jsonl", 240)
    preempt(slurm, job)
    slurm.await_state(job, "PENDING", seconds=240)
    before = samples_seen()
    assert 0 < before[-1] < 2400
    log = Path(f"runs/small/slurm/{job}.log")
    assert slurm.await_state(job, "COMPLETED", "FAILED", "NODE_FAIL", seconds=240) == "COMPLETED", (
        log.read_text()
    )
    assert slurm.job(job)["Restarts"] == "1"
    said = log.read_text()
    assert "the job is in the queue again and will continue" in said
    assert "train: continue (interrupted)" in said
    assert samples_seen() == list(range(160, 2401, 160))
    assert json.loads(Path("runs/small/train/stage.json").read_text())["attempts"] == 2


def test_cancelled_job_stays_cancelled(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "waits").write_text(WAITS)
    (tmp_path / "waits").chmod(0o755)
    monkeypatch.setattr("stages.cluster.LAUNCHER", tmp_path / "waits")
    job = submit(capsys)
    deadline = time.monotonic() + 60
    while not Path("started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    slurm.call("scancel", job)
    slurm.await_state(job, "CANCELLED")
    log = Path(f"runs/small/slurm/{job}.log")
    while "submit the job again" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    time.sleep(1)
    assert slurm.state(job) == "CANCELLED"
    shutil.rmtree("runs")
