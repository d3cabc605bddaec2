"""A SLURM of two nodes on this machine, in a folder of its own: controller, two node daemons, munge.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge (22.05).
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")

CONFIG = """\
ClusterName=small
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A node refuses a requeued job until credentials of its earlier start have expired: 5 s is the
# shortest that SLURM allows.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=p Nodes=n1,n2 Default=YES
"""


@dataclass
class Slurm:
    """The cluster; `environment` makes SLURM's commands speak to it."""

    directory: Path
    environment: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *words: str) -> str:
        answer = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, (words, answer.stdout, answer.stderr)
        return answer.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, number: str) -> str:
        return self.job(number)["JobState"]

    def await_state(self, number: str, *states: str, seconds: float = 120) -> str:
        deadline = time.monotonic() + seconds
        while (state := self.state(number)) not in states and time.monotonic() < deadline:
            time.sleep(0.2)
        assert state in states, self.job(number)
        return state


def is_possible() -> bool:
    """Whether the programs are here and may be started."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return os.geteuid() == 0 and all(shutil.which(program, path=path) for program in PROGRAMS)


@contextmanager
def running(directory: Path) -> Iterator[Slurm]:
    """Start the cluster, and end it whatever happens."""
    environment = {
        "SLURM_CONF": str(directory / "slurm.conf"),
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    (directory / "slurm.conf").write_text(CONFIG.format(directory=directory, ports=_free_ports(3)))
    for name in ("munge", "state", "spool/n1", "spool/n2"):
        (directory / name).mkdir(parents=True)
    slurm = Slurm(directory, environment)
    munge = directory / "munge"
    slurm.call("mungekey", "--create", f"--keyfile={munge}/key")
    try:
        _start(
            slurm,
            "munged",
            "--foreground",
            "--force",
            f"--key-file={munge}/key",
            f"--socket={munge}/socket",
            f"--pid-file={munge}/pid",
            f"--seed-file={munge}/seed",
            f"--log-file={munge}/log",
        )
        _await(lambda: (munge / "socket").exists())
        _start(slurm, "slurmctld", "-D")
        for node in ("n1", "n2"):
            _start(slurm, "slurmd", "-D", "-N", node)
        _await(lambda: "idle 2" in _nodes(slurm))
        yield slurm
    finally:
        for daemon in reversed(slurm.daemons):
            daemon.terminate()
        for daemon in slurm.daemons:
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _start(slurm: Slurm, *words: str) -> None:
    with (slurm.directory / f"{words[0]}.out").open("ab") as out:
        daemon = subprocess.Popen(
            words, env={**os.environ, **slurm.environment}, stdout=out, stderr=subprocess.STDOUT
        )
    slurm.daemons.append(daemon)


def _nodes(slurm: Slurm) -> str:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--format=%T %D"],
        env={**os.environ, **slurm.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout


def _await(happens: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    assert callable(happens)
    while not happens():
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
