"""Starting workers so that they stop when asked, and never outlive who started them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Literal

from pipeline.errors import STOP_SIGNALS
from pipeline.orchestration.nodes import Meeting, interface_of

BAD_INPUT = 2
"""Exit code of what refused a config, a file or a flag, and said so: trying again is of no use."""

STOPPED = 75
"""Exit code of what was asked to stop, and saved."""

FAILED_ELSEWHERE = 3
"""Exit code of a worker that did nothing wrong itself: another process of the stage failed or was lost."""

LOOK_S = 0.5
"""Between two looks at what else may end a worker."""

Verdict = Literal["stop", "kill"]

PARENT = "TRIPTYCH_PARENT"
"""Environment variable: the process that a worker must not outlive."""

TORCHRUNS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)
"""What torchrun tells the processes that it starts. Left by somebody else (a pod, a notebook), they would
make a stage alone take itself for one of several."""

PR_SET_PDEATHSIG = 1

Signal = signal.Signals


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, however the parent dies (Linux)."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)  # it died before we could say so


def threads_per_process(processes: int) -> int:
    """Every core once: results depend on the number of threads, so it is decided here."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, available_cores() // processes)


def available_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int, address: str = "") -> dict[str, str]:
    """What a worker's libraries must know before they are loaded.

    Args:
        threads: Of each process.
        address: Where other machines reach this one; empty on a machine alone.
    """
    interface = interface_of(address) if address else None
    return {
        # gloo and NCCL would ask which interface has the host's name, which many a machine
        # answers with the one that nobody else can reach. What a person has set comes first.
        **({"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} if interface else {}),
        **{name: value for name, value in os.environ.items() if name not in TORCHRUNS},
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Images often forbid to write bytecode; then every process that starts or is started again
        # compiles torch, which takes longer than all else that it does before it trains.
        "PYTHONDONTWRITEBYTECODE": "",
        # A `pipeline` folder in the working directory must not shadow ours.
        "PYTHONSAFEPATH": "1",
        # Without it the ranks cannot meet again after one of them was killed and restarted.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Processes that look for each other warn in C++ of every attempt that comes too early.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        # cuBLAS is deterministic only with a workspace of fixed size.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


class Interruption:
    """Turns the first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 into a request to stop, the second into a kill.

    Used as a context manager around everything that should stop in order.
    """

    SIGNALS = STOP_SIGNALS

    def __init__(self) -> None:
        self.requested = False
        self._worker: subprocess.Popen[bytes] | None = None
        self._before: dict[Signal, signal._HANDLER] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._stop) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(
        self,
        command: list[str],
        environment: dict[str, str],
        watch: Callable[[], Verdict | None] | None = None,
    ) -> int:
        """Start a worker in a session of its own and wait for it.

        Args:
            command: What to start.
            environment: All of its environment variables.
            watch: Asked every half second whether the worker has to stop for another reason.

        Returns:
            Its exit code; minus the signal's number where a signal ended it.
        """
        self._worker = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            if self.requested:  # between the check by the caller and the start
                self._worker.terminate()
            if watch is None:
                return self._worker.wait()
            return self._watched(self._worker, watch)
        finally:
            _kill_session(self._worker)
            self._worker = None

    def _watched(self, worker: subprocess.Popen[bytes], watch: Callable[[], Verdict | None]) -> int:
        while True:
            try:
                return worker.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                verdict = watch()
            if verdict == "kill":
                _kill_session(worker)
            elif verdict == "stop" and not self.requested:
                self.requested = True
                worker.terminate()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._worker is not None and not self.requested:
            self._worker.terminate()
        elif self._worker is not None:
            _kill_session(self._worker)
        elif self.requested:
            raise KeyboardInterrupt
        if not self.requested:
            os.write(2, b"\ntriptych: stopping as soon as what is done is saved; once more stops at once\n")
        self.requested = True


def worker_command(
    module: str, job: Path, processes: int, max_restarts: int, meeting: Meeting | None = None
) -> list[str]:
    """The command line of a worker module; with several processes it starts them itself.

    Args:
        module: What is started.
        job: The job file.
        processes: On this machine.
        max_restarts: How often they are started again after one of them died.
        meeting: Where they meet those of other machines, if there are any.
    """
    command = [sys.executable, "-u", "-m", module, "--job", str(job)]
    if processes > 1 or meeting:
        command += ["--processes", str(processes), "--max-restarts", str(max_restarts)]
    if meeting:
        command += ["--nodes", str(meeting.nodes), "--meeting", meeting.id, "--endpoint", meeting.endpoint]
        command += ["--address", meeting.address, "--join-timeout", str(meeting.timeout_s)]
        command += ["--lead"] if meeting.is_lead else []
    return command


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"triptych: {line}", file=sys.stderr, flush=True)


def _kill_session(worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker and what it started; nothing may be left once it is over."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
