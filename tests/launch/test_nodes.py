"""What the environment of several machines may say, and what people are told."""

import hashlib
import json
import shlex
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.orchestration import nodes as addresses
from pipeline.orchestration import nodes_board
from pipeline.orchestration.execution import Launch, ending
from pipeline.orchestration.job import Job, relocated
from pipeline.orchestration.ledger import Place, Record
from pipeline.orchestration.nodes import Nodes, address_towards, interface_of, nodes_from
from pipeline.orchestration.nodes_agent import is_lost_contact
from pipeline.orchestration.nodes_board import Board, Call, LeadNotice, NodeNotice, Pulse
from pipeline.orchestration.nodes_lead import MachineMissing
from pipeline.orchestration.nodes_text import fewer, missing_text
from pipeline.orchestration.origin import Origin
from pipeline.orchestration.plan import Selection
from pipeline.orchestration.processes import worker_environment
from stages import __main__ as command
from tests.launch.conftest import TINY

SET = {"NNODES": "2", "RDZV_ENDPOINT": "127.0.0.1:29400", "NODE_RANK": "0"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NNODES", "NODE_RANK", "RDZV_ENDPOINT", "RDZV_ID", "RDZV_TIMEOUT", "TRIPTYCH_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"NNODES": "two"}, "NNODES=two: not a whole number of at least 1"),
        ({"NNODES": "0"}, "NNODES=0: not a whole number of at least 1"),
        ({"RDZV_ENDPOINT": ""}, "NNODES=2, but RDZV_ENDPOINT is not set; set it to HOST:PORT of the lead"),
        ({"RDZV_ENDPOINT": "host:port"}, "RDZV_ENDPOINT=host:port: not HOST:PORT"),
        ({"RDZV_ENDPOINT": "host:70000"}, "RDZV_ENDPOINT=host:70000: not HOST:PORT"),
        ({"RDZV_ENDPOINT": "http://host"}, "RDZV_ENDPOINT=http://host: not HOST:PORT"),
        ({"NODE_RANK": "2"}, "NODE_RANK=2: with NNODES=2 it is one of 0 to 1"),
        ({"NODE_RANK": "-1"}, "NODE_RANK=-1: not a whole number"),
        ({"NODE_RANK": ""}, "RDZV_ENDPOINT=127.0.0.1:29400: on every machine that is the machine itself"),
        (
            {"NODE_RANK": "", "RDZV_ENDPOINT": "no.such.host.invalid"},
            "no.such.host.invalid is not known here",
        ),
        ({"RDZV_ID": "a b"}, "RDZV_ID=a b: letters, digits"),
        ({"RDZV_TIMEOUT": "0"}, "RDZV_TIMEOUT=0: not a whole number of at least 1"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE=0: not a whole number of at least 1"),
        ({"NPROC_PER_NODE": "3"}, "train.batch 64 cannot be divided among 2 machines with --nproc 3"),
    ],
)
def test_wrong_environment_is_one_message(
    changed: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (SET | changed).items():
        monkeypatch.setenv(name, value)
    assert command.main(["run", "tiny.yaml"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_batch_is_shared_among_processes_and_micro_batches(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["--nproc", "2", "--set", "train.accumulation=64"]
    assert command.main(["run", "tiny.yaml", *parts, "--set", "train.batch=64"]) == 2
    said = capsys.readouterr().err
    assert "among --nproc 2 processes and train.accumulation 64 evenly" in said


def test_multinode_says_what_to_set_and_compare_stays_on_one_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["multinode", "tiny.yaml"]) == 2
    assert "multinode: NNODES is not set; start the same command on every machine" in capsys.readouterr().err
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert command.main(["compare", "tiny.yaml", "--systems", "ae"]) == 2
    assert "NNODES=2: compare works on one machine" in capsys.readouterr().err


def test_the_environment_says_who_leads_and_where() -> None:
    assert nodes_from({}, "tiny") is None
    assert nodes_from({"NNODES": "1", "RDZV_ENDPOINT": "x:1"}, "tiny") is None
    lead = nodes_from({"NNODES": "3", "RDZV_ENDPOINT": "node0", "NODE_RANK": "0"}, "tiny")
    assert lead == Nodes(3, 0, True, "node0", 29400, "tiny")
    follower = nodes_from({**SET, "RDZV_ENDPOINT": "[fe80::1]:1", "NODE_RANK": "1", "RDZV_ID": "a-1"}, "tiny")
    assert follower is not None
    assert (follower.is_lead, follower.endpoint, follower.run_id) == (False, "[fe80::1]:1", "a-1")


def test_without_a_number_the_machine_that_has_the_address_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"here": "127.1.2.3", "elsewhere": "203.0.113.7"}

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (there[host], 0))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    found = [nodes_from({"NNODES": "2", "RDZV_ENDPOINT": host}, "tiny") for host in there]
    assert [node and node.is_lead for node in found] == [True, False]


def test_address_and_interface_are_those_that_reach_the_other_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert address_towards("127.0.0.1", 9) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert worker_environment(1, "127.0.0.1")["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in worker_environment(1)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert worker_environment(1, "127.0.0.1")["GLOO_SOCKET_IFNAME"] == "ib0"


def test_dry_run_shows_each_machines_command_and_what_torchrun_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in {**SET, "NODE_RANK": "1", "MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    assert command.main(["multinode", "tiny.yaml", "--nproc", "4", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for rank in (0, 1):
        assert (
            f"  NNODES=2 NODE_RANK={rank} NPROC_PER_NODE=4 RDZV_ENDPOINT=127.0.0.1:29400 RDZV_ID=tiny "
            "MAX_RESTARTS=3 triptych multinode tiny.yaml\n"
        ) in said
    assert "tiny on 2 machines, 4 processes on each, 8 together; each takes 8 of a batch's 64 samples" in said
    assert "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d" in said
    assert "--rdzv-id=tiny-STAGE-ATTEMPT --rdzv-conf=is_host=1,join_timeout=240,keep_alive_interval=2" in said
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in said
    assert not (tmp_path / "runs").exists()


def test_commands_of_a_dry_run_ask_for_what_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**SET, "RDZV_TIMEOUT": "90", "RDZV_ID": "job-7", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    asked = ["--set", "train.batch=32", "--root", "my runs", "--from", "shard", "--until", "train"]
    asked += ["--force", "train", "--wait", "--nproc", "1"]
    assert command.main(["multinode", "tiny.yaml", *asked, "--dry-run"]) == 0
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if "NODE_RANK=1" in line)
    variables, _, words = first.partition("triptych ")
    for name, value in (word.split("=") for word in shlex.split(variables)):
        monkeypatch.setenv(name, value)
    assert command.main([*shlex.split(words), "--dry-run"]) == 0
    assert capsys.readouterr().out == said
    for flag in ("--set train.batch=32", "--root 'my runs'", "--until train", "--force train", "--wait"):
        assert flag in words
    assert "1 process on each, 2 together" in said
    assert "all machines work on shard, train\n" in said
    assert "lead alone" not in said
    assert "(1 thread in each)" in said


def test_local_is_run_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["local", "tiny.yaml", "--dry-run"]) == 0
    assert "shard       run    no result yet" in capsys.readouterr().out


def launch(count: int, processes: int) -> Launch:
    return Launch("x", processes, nodes=Nodes(count, 0, True, "node0", 29400, "tiny"))


def test_fewer_machines_are_given_numbers_that_the_batch_can_be_divided_among() -> None:
    config, origin = load_config(Path("tiny.yaml")), Origin("/x/tiny.yaml", shown="tiny.yaml")  # batch 64
    until = Selection(last="train", force=["train"])
    alone = fewer(config, origin, until, launch(2, 4), 1)
    assert alone == ["NNODES=1 triptych run tiny.yaml --until train --nproc 4"]
    three = fewer(config, origin, Selection(), launch(4, 8), 3)
    assert len(three) == 2, "64 cannot be divided among three machines"
    assert three[1].startswith("NNODES=2 NODE_RANK=1 NPROC_PER_NODE=8 RDZV_ENDPOINT=node0:29400 ")


def test_missing_machine_is_told_with_what_is_saved(tmp_path: Path) -> None:
    config, origin = load_config(Path("tiny.yaml")), Origin("/x/tiny.yaml", shown="tiny.yaml")
    missing = MachineMissing(["node 1 (b, 10.0.0.2)"], 1, 240)
    said = missing_text(config, origin, Selection(), launch(2, 1), tmp_path, missing)
    assert said.startswith("node 1 (b, 10.0.0.2) did not come within 240 s")
    assert "there is no checkpoint yet" in said
    directory = tmp_path / "train" / "checkpoints" / "000000000128"
    directory.mkdir(parents=True)
    (directory / "state").write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    (directory / "manifest.json").write_text(json.dumps({"sha256": {"state": digest}}))
    said = missing_text(config, origin, Selection(), launch(2, 1), tmp_path, missing)
    assert "what is saved is intact: " in said
    assert "128 samples (its checksums were verified just now)" in said


def test_notices_come_back_as_they_were_written(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert (board.lead(), board.nodes()) == (None, [])
    lead = LeadNotice("a", "host", 3, "works", 0, Call("train", "m", 2, 1, 0, ("b",)), {"c": "no"})
    node = NodeNotice("b", "node-1", "node 1", "10.0.0.2", 2, "digest", stops=True)
    board.post_lead(lead)
    board.post_node(node)
    assert (board.lead(), board.nodes()) == (lead, [node])
    (board.directory / "node-1.json").write_text("{half a no")
    assert board.nodes() == []
    board.clear()
    assert board.lead() is None


def test_one_of_many_takes_a_slot_and_a_dead_ones_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_board, "BEAT_S", 0.02)
    board, done = Board(tmp_path), threading.Event()
    board.clear()
    many = [NodeNotice(f"{n}", "node-1", f"machine {n}", "127.0.0.1", 1, "") for n in range(8)]

    def take(mine: NodeNotice) -> str:
        other = Board(tmp_path).take_slot(mine, "lead")
        while not other and not done.wait(0.005):
            mine = replace(mine, beat=mine.beat + 1)
            board.post_node(mine)
        return other

    with ThreadPoolExecutor(len(many)) as threads:
        taking = [threads.submit(take, mine) for mine in many]
        deadline = time.monotonic() + 20
        while sum(future.done() for future in taking) < len(many) - 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        done.set()
    winner = [future.result() for future in taking].index("")
    assert {future.result() for future in taking} == {"", f"machine {winner}"}
    late = replace(many[0], id="late")
    assert not board.is_succeeded(many[winner])
    assert board.take_slot(late, "lead") == ""
    assert board.is_succeeded(many[winner])
    assert not board.is_succeeded(late)


def test_writer_is_alive_once_its_beat_was_seen_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(nodes_board.time, "monotonic", lambda: now_s)
    pulse = Pulse()
    pulse.feel("a", 7)
    pulse.feel("a", 7)
    assert pulse.age_s("a") == float("inf"), "it may be what a dead one left"
    pulse.feel("a", 8)
    now_s = 105.0
    pulse.feel("a", 8)
    assert pulse.age_s("a") == 5.0
    assert time.monotonic is nodes_board.time.monotonic


def test_job_is_found_under_another_path_of_the_same_disk() -> None:
    root = Path("/a/runs")
    place = Place(root / "x/train", root / "x/train", root / "x/.train.partial")
    record = Record("train", "running", "k", 1, {}, {})
    job = Job({}, root, place, record, {"dataset": root / "datasets/d"}, root / "x/.progress.json")
    moved = relocated(job, Path("/b"))
    assert moved.place.working == Path("/b/x/.train.partial")
    assert moved.inputs == {"dataset": Path("/b/datasets/d")}
    assert replace(relocated(moved, root)) == job


def test_processes_that_lost_another_are_told_from_those_that_failed() -> None:
    gloo = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    )
    assert is_lost_contact(RuntimeError(gloo))
    assert not is_lost_contact(RuntimeError("shapes differ"))


def test_exit_codes_are_told_as_signals_where_they_are() -> None:
    assert ending(-9) == "was ended by SIGKILL; often the system's memory was full"
    assert ending(137) == ending(-9)
    assert ending(4) == "failed with exit code 4"


def test_input_errors_are_raised_not_printed() -> None:
    with pytest.raises(InputError, match="NODE_RANK=5"):
        nodes_from({**SET, "NODE_RANK": "5"}, "tiny")
