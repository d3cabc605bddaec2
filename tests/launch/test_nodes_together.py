"""A lead and a follower with fake stages on one machine: both end as the run does, whatever happens."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch.conftest import Run, Terminal

pytestmark = pytest.mark.slow

WORDS = ("multinode", "tiny.yaml", "--until", "train", "--nproc", "1")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Pair:
    """Two machines in one terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.port = free_port()

    def start(self, rank: int, *more: str, timeout_s: int = 60, **environment: str) -> subprocess.Popen[str]:
        return self._terminal.start(
            *WORDS,
            *more,
            NNODES="2",
            NODE_RANK=str(rank),
            RDZV_ENDPOINT=f"127.0.0.1:{self.port}",
            RDZV_TIMEOUT=str(timeout_s),
            **environment,
        )

    def both(self, *more: str, **environment: str) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        return self.start(0, *more, **environment), self.start(1, *more, **environment)


@pytest.fixture
def pair(terminal: Terminal) -> Pair:
    """Two machines whose data is there already."""
    Run(terminal.directory).finish("shard")
    return Pair(terminal)


def ended(process: subprocess.Popen[str], timeout_s: int = 120) -> tuple[int, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out + err


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved(terminal: Terminal) -> int:
    path = terminal.directory / "runs/tiny/train/saved.txt"
    return int(path.read_text()) if path.exists() else 0


def record(terminal: Terminal) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((terminal.directory / "runs/tiny/train/stage.json").read_text())
    return said


def test_both_work_on_every_stage_and_end_with_0(terminal: Terminal, pair: Pair) -> None:
    lead, follower = pair.both("--force", "shard", OMP_NUM_THREADS="1")
    assert ended(lead)[0] == 0
    code, said = ended(follower)
    assert (code, "the run is done" in said) == (0, True)
    assert record(terminal)["execution"] == {"processes": 2, "threads": 1}
    assert (terminal.directory / "runs/tiny/train.helped-by-1").exists()
    assert (terminal.directory / "runs/datasets/shard.helped-by-1").exists()
    assert not list((terminal.directory / "runs/tiny/.nodes").glob("node*.json"))
    terminal.await_no_process()


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGUSR1), (1, signal.SIGTERM)])
def test_a_signal_on_either_machine_saves_and_ends_both_with_75(
    terminal: Terminal, pair: Pair, rank: int, number: signal.Signals
) -> None:
    both = pair.both(FAKE_GATE="train")
    terminal.await_file("runs/tiny/train.helped-by-1")
    wait_until(lambda: saved(terminal))
    both[rank].send_signal(number)
    for process in both:
        code, said = ended(process)
        assert code == 75, said
        assert "interrupted; what is done is saved" in said
    assert record(terminal)["state"] == "running"
    terminal.await_no_process()


def test_stage_that_is_not_divided_runs_on_the_lead_while_the_other_machine_waits(
    terminal: Terminal, pair: Pair
) -> None:
    both = pair.both(FAKE_GATE="train", FAKE_ALONE="train")
    wait_until(lambda: saved(terminal))
    assert both[1].poll() is None
    assert not [line for line in terminal.processes().values() if ".job.node-1.json" in line]
    both[1].send_signal(signal.SIGTERM)
    assert [ended(process)[0] for process in both] == [75, 75]
    assert record(terminal)["execution"]["processes"] == 1
    assert not (terminal.directory / "runs/tiny/train.helped-by-1").exists()


def test_machine_that_is_killed_and_comes_back_is_taken_in_again(terminal: Terminal, pair: Pair) -> None:
    lead, follower = pair.both(FAKE_GATE="train")
    helped = terminal.await_file("runs/tiny/train.helped-by-1")
    wait_until(lambda: saved(terminal))
    follower.kill()
    helped.unlink()
    pair.start(1, FAKE_GATE="train")
    terminal.await_file("runs/tiny/train.helped-by-1")
    assert record(terminal)["attempts"] == 2
    (terminal.directory / "go").touch()
    code, said = ended(lead)
    assert code == 0, said
    assert "train: node 1 (" in said
    assert "is lost; what is saved is intact" in said


def test_machine_that_never_comes_back_is_named_and_fewer_go_on(terminal: Terminal, pair: Pair) -> None:
    lead, follower = (pair.start(rank, timeout_s=20, FAKE_GATE="train") for rank in (0, 1))
    terminal.await_file("runs/tiny/train.helped-by-1")
    wait_until(lambda: saved(terminal))
    follower.kill()
    code, said = ended(lead)
    assert code == 1
    assert "triptych: node 1 (" in said
    assert "did not come within 20 s" in said
    typed = "NNODES=1 triptych run tiny.yaml --until train --nproc 1"
    assert f"    {typed}\n" in said
    assert record(terminal)["state"] == "failed"
    terminal.await_no_process()
    again = terminal.type("run", *WORDS[1:], NNODES="1")
    assert again.returncode == 0, again.stderr
    assert "train: continue (failed: node 1 (" in again.stderr


def test_follower_whose_lead_is_gone_kills_its_processes_and_says_so(terminal: Terminal, pair: Pair) -> None:
    lead, follower = (pair.start(rank, timeout_s=20, FAKE_GATE="train") for rank in (0, 1))
    terminal.await_file("runs/tiny/train.helped-by-1")
    lead.kill()
    lead.wait()
    code, said = ended(follower)
    assert code == 1
    assert "no sign of life from the lead" in said
    terminal.await_no_process()


def test_follower_goes_over_to_the_lead_that_was_started_again(terminal: Terminal, pair: Pair) -> None:
    lead, follower = pair.both(FAKE_GATE="train")
    terminal.await_file("runs/tiny/train.helped-by-1")
    lead.kill()
    lead.wait()
    (terminal.directory / "go").touch()
    lead = pair.start(0)
    assert ended(lead)[0] == 0
    assert ended(follower)[0] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_failure_on_either_machine_ends_both_with_1(pair: Pair, rank: int) -> None:
    both = [
        pair.start(number, FAKE_GATE="train", **({"FAKE_FAIL": "train"} if number == rank else {}))
        for number in (0, 1)
    ]
    code, said = ended(both[0])
    assert code == 1, said
    assert ("train failed on node 1 (" in said) == (rank == 1)
    code, said = ended(both[1])
    assert code == 1
    assert "the run failed; what the lead (" in said


def test_machine_that_does_not_share_the_disk_is_told_so(terminal: Terminal, pair: Pair) -> None:
    lead = pair.start(0)
    code, said = ended(pair.start(1, "--root", "elsewhere", timeout_s=20))
    assert code == 2
    assert "elsewhere/tiny: what the lead (127.0.0.1) writes there does not show here" in said
    assert lead.poll() is None


def test_machine_with_other_flags_is_refused_and_the_lead_waits_on(terminal: Terminal, pair: Pair) -> None:
    lead = pair.start(0)
    code, said = ended(pair.start(1, "--set", "seed=9"))
    assert (code, "was given another config than the lead" in said) == (2, True)
    code, said = ended(pair.start(1, "--nproc", "2"))
    assert (code, "would start 2 processes and the lead 1" in said) == (2, True)
    code, said = ended(pair.start(1))
    assert code == 0, said
    assert ended(lead)[0] == 0


def test_two_machines_of_one_number_are_refused(terminal: Terminal, pair: Pair) -> None:
    both = pair.both(FAKE_GATE="train")
    terminal.await_file("runs/tiny/train.helped-by-1")
    code, said = ended(pair.start(1))
    assert code == 2
    assert "NODE_RANK=1: node 1 (" in said
    assert "has that number already" in said
    (terminal.directory / "go").touch()
    assert [ended(process)[0] for process in both] == [0, 0]


def test_of_two_machines_of_one_number_that_start_together_one_is_refused(pair: Pair) -> None:
    lead, *alike = (pair.start(rank) for rank in (0, 1, 1))
    (code, said), (other, _) = sorted((ended(process) for process in alike), reverse=True)
    assert (code, other) == (2, 0), said
    assert "has that number already; give each its own" in said
    assert ended(lead)[0] == 0


def test_follower_without_a_lead_gives_up(pair: Pair) -> None:
    code, said = ended(pair.start(1, timeout_s=2))
    assert code == 1  # it may come later: a cluster should try again
    assert "no lead for 2 s: 127.0.0.1:" in said


def test_lead_whose_port_is_taken_says_so(terminal: Terminal, pair: Pair) -> None:
    with socket.create_server(("", pair.port)):
        code, said = ended(pair.start(0))
    assert code == 2
    assert f"port {pair.port} cannot be used here" in said
    assert Path(terminal.directory / "runs/tiny/.nodes/lead.json").exists()
