"""What this machine offers, in a few lines that help when something does not work, and what to set."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration.gpus import Gpu, default_processes, find_gpus, torch_is_built_for_gpus
from pipeline.orchestration.machine import (
    cores_allowed,
    default_interface,
    existing,
    file_system,
    interfaces,
    shared_memory_gib,
)
from pipeline.orchestration.mirror_reach import ANSWER_S, server_answers
from pipeline.orchestration.mlflow_store import target_of
from pipeline.orchestration.processes import TORCHRUNS, available_cores

LITTLE_DISK_GIB = 5.0
LITTLE_SHARED_MEMORY_GIB = 1.0

OURS = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "RDZV_ENDPOINT", "RDZV_ID", "RDZV_TIMEOUT", "MAX_RESTARTS")
"""What we read where several machines or processes work together."""

LIBRARIES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        text: What was found.
        advice: What to set or do about it; empty where all is well.
    """

    name: str
    text: str
    advice: str = ""


def examine(root: Path) -> list[Finding]:
    """A finding per thing that matters."""
    gpus = find_gpus()
    return [
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        *_torch(gpus),
        _cores(),
        Finding("memory", _memory()),
        *_shared_memory(),
        _disk(root),
        _sharing(root),
        _network(),
        _tracking(root),
        _cluster(),
        *_variables(),
        Finding("processes", f"{default_processes('auto')} per machine, unless --nproc says otherwise"),
    ]


def _torch(gpus: list[Gpu]) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", f"cannot be imported: {error}", "remove .venv, and launch.sh makes it anew")
        return
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("torch", f"{torch.__version__}, {capability}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        bf16 = "yes, on the GPU" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        yield Finding("bf16", bf16)
    else:
        yield Finding("bf16", _bf16_on_processor())
    yield _gpus(gpus, torch)
    yield Finding("backend", _backend(torch))


def _gpus(gpus: list[Gpu], torch: Any) -> Finding:
    text = "; ".join(map(_described, gpus)) or "none"
    if torch.cuda.is_available():
        seen = torch.cuda.device_count()
        hidden = f"; CUDA_VISIBLE_DEVICES leaves {seen}" if seen < len(gpus) else ""
        return Finding("gpu", text + hidden)
    if not gpus:
        return Finding("gpu", "none that torch can use")
    if not torch_is_built_for_gpus():
        why = "this torch is built for processors only; install a build for GPUs into .venv (pytorch.org)"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        why = "CUDA_VISIBLE_DEVICES hides every GPU; unset it"
    else:
        why = f"torch cannot use them: it needs a driver for CUDA {torch.version.cuda}; see nvidia-smi"
    return Finding("gpu", f"{text}, but torch can use none", why)


def _described(gpu: Gpu) -> str:
    if gpu.memory_gib is None:
        return gpu.name
    free = "" if gpu.free_gib is None else f", {gpu.free_gib:.0f} free"
    return f"{gpu.name} ({gpu.memory_gib:.0f} GiB{free})"


def _backend(torch: Any) -> str:
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        return f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))} between GPUs, gloo between processors"
    return "gloo between processes" if torch.distributed.is_gloo_available() else "none: one process only"


def _bf16_on_processor() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return "unknown"
    native = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    return (
        f"yes, the processor has {' and '.join(native)}" if native else "no, the processor would emulate it"
    )


def _cores() -> Finding:
    cores, allowed = available_cores(), cores_allowed()
    if allowed is None or allowed >= cores:
        return Finding("cores", str(cores))
    threads = max(1, int(allowed))
    advice = f"set OMP_NUM_THREADS to {threads} divided by the processes, which cannot see the limit"
    if os.environ.get("OMP_NUM_THREADS"):
        advice = ""
    return Finding("cores", f"{cores}, of which this container may use {allowed:g}", advice)


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = (page * os.sysconf(name) / 2**30 for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return f"{free:.1f} of {total:.1f} GiB free"


def _shared_memory() -> Iterator[Finding]:
    size = shared_memory_gib()
    if size is not None and size < LITTLE_SHARED_MEMORY_GIB:
        advice = (
            "give the container more shared memory (docker run --shm-size 8g), or train.loading.workers=0"
        )
        yield Finding("/dev/shm", f"{size * 1024:.0f} MiB", advice)


def _disk(root: Path) -> Finding:
    place = existing(root)
    usage = shutil.disk_usage(place)
    text = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free for {root}"
    if not os.access(place, os.W_OK):
        return Finding(
            "disk", f"{text}; NOT WRITABLE", f"make {place} writable, or choose another with --root"
        )
    if usage.free / 2**30 < LITTLE_DISK_GIB:
        return Finding("disk", text, "free some space, or choose another disk with --root")
    return Finding("disk", text)


def _sharing(root: Path) -> Finding:
    found = file_system(root)
    if found is None:
        return Finding("root", "on an unknown file system")
    if not found.is_shared:
        lost = ", LOST when the machine stops" if found.kind in ("tmpfs", "overlay") else ""
        return Finding(
            "root", f"on this machine alone ({found.kind}){lost}; several machines need one they share"
        )
    text = f"on a network file system ({found.kind} at {found.mount}), which other machines can share"
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return Finding("root", text)
    advice = "mlflow.db would lie there, and SQLite locks badly over a network: set MLFLOW_TRACKING_URI"
    return Finding("root", text, advice)


def _network() -> Finding:
    found = interfaces()
    outward = default_interface()
    shown = ", ".join(f"{name} {address}" for name, address in found.items()) or "no interface has an address"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        asked = [word.lstrip("=") for word in os.environ.get(name, "").split(",") if word and word[0] != "^"]
        if asked and not any(interface.startswith(word) for word in asked for interface in found):
            return Finding(
                "network", shown, f"{name}={os.environ[name]} names no interface with an address; unset it"
            )
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return Finding("network", f"{shown}; GLOO_SOCKET_IFNAME chooses {os.environ['GLOO_SOCKET_IFNAME']}")
    way = f"; {outward} leads out" if outward else ""
    return Finding("network", f"{shown}{way}; with several machines, the one that reaches the lead is used")


def _tracking(root: Path) -> Finding:
    target = target_of(None, root)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return Finding("tracking", f"{root / 'mlflow.db'} (set MLFLOW_TRACKING_URI for a server)")
    if not target.is_server:
        return Finding("tracking", target.shown)
    if server_answers(target):
        return Finding("tracking", f"{target.shown} answers")
    advice = "a run goes on without it and `sync CONFIG` uploads later; else correct MLFLOW_TRACKING_URI"
    return Finding("tracking", f"{target.shown} does NOT answer within {ANSWER_S:g} s", advice)


def _cluster() -> Finding:
    variables = os.environ
    if job := variables.get("SLURM_JOB_ID"):
        place = f"node {variables.get('SLURM_NODEID', '?')} of {variables.get('SLURM_JOB_NUM_NODES', '?')}"
        return Finding("cluster", f"inside SLURM job {job}, {place}")
    if "KUBERNETES_SERVICE_HOST" in variables:
        index = variables.get("JOB_COMPLETION_INDEX")
        return Finding("cluster", f"inside a Kubernetes pod{f', number {index} of its Job' if index else ''}")
    found = [f"`{name}` is here" for name in ("sbatch", "kubectl") if shutil.which(name)]
    return Finding("cluster", ", ".join(found) or "neither inside a job nor with sbatch or kubectl")


def _variables() -> Iterator[Finding]:
    if text := _chosen(OURS + LIBRARIES):
        yield Finding("set", text)
    if text := _chosen(TORCHRUNS):
        yield Finding("torchrun", f"{text}; ignored, since every stage starts its own processes")


def _chosen(names: tuple[str, ...]) -> str:
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
