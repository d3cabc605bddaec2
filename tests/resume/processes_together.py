"""Processes that train together: how a test starts them, and what their scripts do alike."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    script: str, *arguments: object, size: int = 1, **environment: str
) -> list[subprocess.Popen[bytes]]:
    """So many processes of a script beside this file, each of one thread, which meet at a free port.

    A process alone is told nothing of any other.
    """
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | place | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for place in places(size)
    ]


def places(size: int) -> list[dict[str, str]]:
    """What torch reads in the environment of each of so many processes of one machine."""
    if size == 1:
        return [{}]
    everyone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    everyone |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def finish(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = 400) -> tuple[list[int], str]:
    """How each ended, and all that was said."""
    said = [process.communicate(timeout=timeout_s)[1].decode() for process in processes]
    return [process.returncode for process in processes], "\n".join(said)


def succeed(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = 400) -> None:
    """Wait until all have ended, and well."""
    codes, said = finish(processes, timeout_s)
    assert not any(codes), said


def total(values: torch.Tensor) -> torch.Tensor:
    """Summed over all processes."""
    summed = values.clone()
    torch.distributed.all_reduce(summed)
    return summed


def wrap(module: torch.nn.Module, size: int) -> torch.nn.Module:
    """What makes the gradients of all processes one; the module itself for a process alone."""
    return DistributedDataParallel(module, broadcast_buffers=False) if size > 1 else module
