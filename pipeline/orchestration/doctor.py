"""What this machine offers, in a few lines that help when something does not work."""

import os
import platform
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.orchestration.processes import available_cores

CONNECT_TIMEOUT_S = 2.0


def examine(root: Path) -> list[tuple[str, str]]:
    """Name and finding, one per thing that matters."""
    return [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        *_torch(),
        ("cores", str(available_cores())),
        ("memory", _memory()),
        ("disk", _disk(root)),
        ("tracking", _tracking(root)),
    ]


def _torch() -> list[tuple[str, str]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("torch", f"cannot be imported: {error}")]
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    built = f"{torch.__version__}, {capability}, {threads} threads"
    if not torch.cuda.is_available():
        return [("torch", built), ("bf16", _bf16_on_processor()), ("gpu", "none that torch can use")]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = "yes, on the GPU" if torch.cuda.is_bf16_supported() else "no"
    return [("torch", built), ("bf16", bf16), ("gpu", ", ".join(names))]


def _bf16_on_processor() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return "unknown"
    native = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    return (
        f"yes, the processor has {' and '.join(native)}" if native else "no, the processor would emulate it"
    )


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = (page * os.sysconf(name) / 2**30 for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return f"{free:.1f} of {total:.1f} GiB free"


def _disk(root: Path) -> str:
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    writable = "" if os.access(existing, os.W_OK) else "; NOT WRITABLE"
    return f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free for {root}{writable}"


def _tracking(root: Path) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"{root / 'mlflow.db'} (set MLFLOW_TRACKING_URI for a server)"
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return uri
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"{parts.scheme}://{parts.hostname}:{port}"  # without what may be a password
    try:
        with socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S):
            return f"{shown} answers"
    except OSError as error:
        return f"{shown} does NOT answer: {error}"
