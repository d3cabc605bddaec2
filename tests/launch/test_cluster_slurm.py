"""The SLURM script: what it asks for, that a shell reads it as meant, and what it does when SLURM speaks.

SLURM's programs are stand-ins here; test_slurm.py has the real ones.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import __main__ as command
from tests.launch.conftest import CHECKOUT, TINY

SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
"""Of the environment, which need not be on PATH."""

STAND_INS = {
    "scontrol": """
echo "scontrol $*" >>"$CALLS"
case "$*" in
    "show hostnames "*) echo n1; echo n2 ;;
    *"show node n1") echo "NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=n1 Version=22.05" ;;
esac""",
    "squeue": 'echo "${STATE-RUNNING}"',
    # As SLURM does it: TERM for every process of the step.
    "scancel": 'echo "scancel $*" >>"$CALLS"; kill -TERM -- "-$(cat "$CALLS.task")"',
    "srun": """
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 setsid "$@" &
echo $! >"$CALLS.task"
wait $!""",
    "launch": """
env | grep -E '^(NNODES|NODE_RANK|RDZV_ENDPOINT|RDZV_ID|MAX_RESTARTS)=' | sort
printf '<%s>' "$@"
trap 'sleep 1; touch "$CALLS.saved"; exit 75' TERM
touch "$CALLS.started"
[[ ${WAIT-} ]] && { for _ in $(seq 600); do sleep 0.05; done; }
exit "${CODE:-0}" """,
}

Script = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIPTYCH_COMMAND", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `slurm tiny.yaml ... --dry-run` prints."""

    def printed(*words: str) -> str:
        assert command.main(["slurm", "tiny.yaml", *words, "--dry-run"]) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture
def start(tmp_path: Path, printed: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Script:
    """Start the printed script as SLURM would, with stand-ins for SLURM and for launch.sh."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr("stages.cluster.LAUNCHER", programs / "launch")

    def start(*words: str, **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "job.sh").write_text(printed("--nodes", "2", *words))
        given = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
        paths = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
        return subprocess.Popen(
            ["bash", str(tmp_path / "job.sh")],
            env={**os.environ, **given, **paths, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def calls() -> str:
    return Path("calls").read_text()


def await_start() -> None:
    deadline = time.monotonic() + 30
    while not Path("calls.started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "words",
    [
        (),
        (
            "--nodes",
            "4",
            "--gpus-per-node",
            "8",
            "--time",
            "8:00:00",
            "--partition",
            "gpu",
            "--account",
            "a b",
        ),
        ("--cpus-per-task", "4", "--set", "data.source.seed=7", "--root", "a dir", "--output", "log's"),
    ],
)
def test_printed_script_passes_shellcheck(
    printed: Callable[..., str], words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "job.sh").write_text(printed(*words))
    subprocess.run([SHELLCHECK, "job.sh"], check=True)


def test_launch_script_and_template_pass_shellcheck() -> None:
    files = [CHECKOUT / "launch.sh", CHECKOUT / "configs/cluster/slurm.sh"]
    subprocess.run([SHELLCHECK, *files], check=True)


def test_header_asks_for_what_the_flags_say(printed: Callable[..., str], tmp_path: Path) -> None:
    words = ("--nodes", "4", "--gpus-per-node", "8", "--time", "8:00:00", "--mem", "64G", "--grace", "300")
    header = [line for line in printed(*words).splitlines() if line.startswith("#SBATCH")]
    assert header == [
        "#SBATCH --job-name=tiny",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --mem=64G",
        "#SBATCH --time=8:00:00",
        f"#SBATCH --chdir={tmp_path}",
        f"#SBATCH --output={tmp_path}/runs/tiny/slurm/%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:TERM@300",
    ]


def test_machines_are_asked_for_whole_when_nothing_is_said_of_them(printed: Callable[..., str]) -> None:
    assert "#SBATCH --exclusive\n" in printed()
    assert "--exclusive" not in printed("--cpus-per-task", "2")
    assert "#SBATCH --constraint=a100\n" in printed("--sbatch=--constraint=a100")


def test_nothing_of_the_template_itself_is_printed(printed: Callable[..., str]) -> None:
    assert "@" not in printed().replace("B:TERM@120", "").replace('"$@"', "").replace("[@]", "")


def test_every_node_gets_the_runs_flags_and_where_to_meet(start: Script) -> None:
    words = ("--set", "data.source.seed=7", "--root", "it's a $HOME", "--until", "train", "--nproc", "2")
    out, err = start(*words, SLURM_RESTART_COUNT="3").communicate(timeout=60)
    assert out.splitlines() == [
        "MAX_RESTARTS=3",
        "NNODES=2",
        "NODE_RANK=0",
        "RDZV_ENDPOINT=10.0.0.7:29634",
        "RDZV_ID=1234-3",
        "<multinode><tiny.yaml><--set><data.source.seed=7><--root><it's a $HOME><--until><train>"
        "<--nproc><2><--wait>",
    ], err


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (2, "RUNNING", False),
        (75, "RUNNING", True),
        (143, "RUNNING", True),
        (137, "RUNNING", False),
        (75, "COMPLETING", False),
        (75, "", False),
    ],
)
def test_job_is_requeued_when_it_stopped_but_neither_failed_nor_was_cancelled(
    start: Script, code: int, state: str, requeued: bool
) -> None:
    job = start(CODE=str(code), STATE=state)
    job.communicate(timeout=60)
    assert job.returncode == code
    assert ("scontrol requeue 1234" in calls()) == requeued


def test_term_goes_to_the_step_once_and_the_script_waits_until_it_saved(start: Script) -> None:
    job = start(WAIT="yes")
    await_start()
    job.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 75, err
    assert calls().count("scancel --signal=TERM 1234.0") == 1
    assert "scontrol requeue 1234" in calls()
    assert Path("calls.saved").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--force", "train"], "--force train: a job that is requeued would force it anew each time"),
        (["--nodes", "3"], "train.batch 64 cannot be divided among 3 processes (3 x 1) evenly"),
        (
            ["--nodes", "2", "--gpus-per-node", "3"],
            "train.batch 64 cannot be divided among 6 processes (2 x 3) evenly",
        ),
        (["--sbatch", "-C a100"], "--sbatch -C a100: write it as --sbatch=--constraint=a100"),
        (["--sbatch=--nodes=3"], "--sbatch --nodes=3: the script sets --nodes itself"),
        (["--gpus", "3"], "slurm: unknown argument --gpus; did you mean --gpus-per-node?"),
        (["--from", "trian"], "--from trian: no such stage; did you mean train?"),
        (["--set", "train.batch=0"], "tiny.yaml"),
    ],
)
def test_what_cannot_run_is_refused_before_it_waits_in_a_queue(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["slurm", "tiny.yaml", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_without_slurm_it_says_where_to_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["slurm", "tiny.yaml"]) == 2
    assert "sbatch: not found, so this is no login node" in capsys.readouterr().err


@pytest.mark.parametrize("accepted", [True, False])
def test_script_is_kept_and_submitted(
    accepted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = 'echo "77;cluster"' if accepted else 'echo "sbatch: error: invalid partition: x" >&2; exit 1'
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\ncp "$2" submitted\n{answer}\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert command.main(["slurm", "tiny.yaml"]) == (0 if accepted else 2)
    said = capsys.readouterr().err
    assert "job 77 is in the queue" in said if accepted else "invalid partition: x" in said
    kept = Path("runs/tiny/slurm/job.sh").read_text()
    assert kept == Path("submitted").read_text()
    assert json.dumps(str(CHECKOUT / "launch.sh")).strip('"') in kept
