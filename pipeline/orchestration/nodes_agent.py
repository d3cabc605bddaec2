"""torchrun's agent on this machine: starts the processes of a stage, and again when one of them dies.

It is used as a library: as a command it answers a SIGTERM with a traceback and exit code 1 even if every
process saved, and gives them 30 seconds for that.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import STOP_SIGNALS
from pipeline.orchestration.nodes import Meeting
from pipeline.orchestration.processes import PARENT

STOP_FILE = "TRIPTYCH_STOP_FILE"
"""Environment variable: the file whose existence asks the processes of a stage to save and stop."""

UNDER_AGENT = "TORCHELASTIC_RUN_ID"
"""Environment variable: torchrun's agent sets it for the processes that it starts."""

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable: how often it has started them again."""

KEEP_ALIVE_S = 2
KEEP_ALIVE_ATTEMPTS = 3
"""A dead machine is noticed after their product: measured, a node that came back trained 3.4 s later."""

GRACE_S = 3
"""For processes that end because another one did; those that save are not hurried."""


def run_processes(
    command: list[str], processes: int, max_restarts: int, meeting: Meeting | None, *, resumable: bool
) -> int:
    """Start a stage's processes on this machine and wait for them.

    Args:
        command: Module and arguments of each.
        processes: How many.
        max_restarts: How often all are started again after one died; not after one refused its input.
        meeting: Where they find those of other machines, if there are any.
        resumable: Whether the stage saves when it is asked to stop; others are ended at once.

    Returns:
        0 if all of them ended so, 75 if they were ended on request, else that of the failure.
    """
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig

    from pipeline.orchestration.nodes_elastic import launch

    # The workers speak for themselves.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[PARENT] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="triptych-") as directory:
        os.environ[STOP_FILE] = str(Path(directory) / "stop")
        _stop_on_request(Path(directory) / "stop", resumable=resumable)
        config = LaunchConfig(
            **_rendezvous(meeting),
            nproc_per_node=processes,
            max_restarts=max_restarts,
            shutdown_timeout=GRACE_S,
            signals_to_handle="SIGQUIT",  # the others are ours
        )
        try:
            return launch(config, command)
        except RendezvousError as error:
            print(f"triptych: {_unmet(meeting)}: {error}", file=sys.stderr)
            return 1


def _rendezvous(meeting: Meeting | None) -> dict[str, Any]:
    """How the agents of all machines find each other."""
    if meeting is None:
        return {
            "min_nodes": 1,
            "max_nodes": 1,
            "run_id": f"triptych-{os.getpid()}",
            "rdzv_backend": "c10d",
            "rdzv_endpoint": "localhost:0",
        }
    from pipeline.orchestration.nodes_rendezvous import register

    return {
        "min_nodes": meeting.nodes,
        "max_nodes": meeting.nodes,
        "run_id": meeting.id,
        "rdzv_backend": register(),
        "rdzv_endpoint": meeting.endpoint,
        "local_addr": meeting.address,
        "rdzv_configs": {
            # Without it each guesses from host names, which may be the same everywhere.
            "is_host": meeting.is_lead,
            "join_timeout": meeting.timeout_s,
            "keep_alive_interval": KEEP_ALIVE_S,
            "keep_alive_max_attempt": KEEP_ALIVE_ATTEMPTS,
        },
    }


def is_lost_contact(error: BaseException) -> bool:
    """Whether a process could not go on because another one was gone: it did nothing wrong itself."""
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    said = str(error)
    return type(error).__name__ in kinds or ("gloo/transport" in said and any(word in said for word in words))


def _stop_on_request(file: Path, *, resumable: bool) -> None:
    """Let a signal ask the processes to save and stop, or end them where there is nothing to save."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def handle(number: int, frame: FrameType | None) -> None:
        if resumable and _has_children():
            file.touch()
            return
        raise SignalException("asked to stop", signal.Signals(number))

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


def _has_children() -> bool:
    """Whether any process that we started is there still; while we wait for other machines none is."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _unmet(meeting: Meeting | None) -> str:
    if meeting is None:
        return "the processes did not find each other"
    return (
        f"the machines did not find each other at {meeting.endpoint} (waited up to {meeting.timeout_s} s); "
        "see that the port is open between them"
    )
