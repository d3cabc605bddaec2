"""The GPUs that training may use, found without importing torch.

The supervisor asks this question, and a process that has imported torch holds memory, takes seconds to
start, and on a GPU may keep a context that its own workers then lack. So the driver is asked instead:
`nvidia-smi`, or what the driver shows under /proc where that program is not installed (containers).
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROC = Path("/proc/driver/nvidia/gpus")
LIBRARIES = ("libtorch_cuda.so", "libtorch_hip.so")
NVIDIA_SMI_TIMEOUT_S = 10.0
QUERY = ("index", "name", "memory.total", "memory.free", "driver_version")


@dataclass(frozen=True)
class Gpu:
    """A graphics processor as the driver describes it.

    Attributes:
        name: Its model.
        memory_gib: All of its memory; None where unknown.
        free_gib: What nobody uses; None where unknown.
        driver: The driver's version.
    """

    name: str
    memory_gib: float | None = None
    free_gib: float | None = None
    driver: str = ""


def default_processes(device: str) -> int:
    """How many processes share a stage when nobody says: one per GPU that `train.device` allows, else one."""
    return 1 if device == "cpu" else max(1, count_gpus())


def count_gpus() -> int:
    """GPUs that torch will see: those that CUDA_VISIBLE_DEVICES leaves, if torch can use any."""
    if not torch_is_built_for_gpus():
        return 0
    found = len(find_gpus())
    return min(found, len(visible)) if (visible := visible_devices()) is not None else found


def visible_devices() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES leaves: nothing from the first invalid entry on; None when it is not set."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    names: list[str] = []
    for name in (word.strip() for word in text.split(",")):
        if not (name.isdigit() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return names


def torch_is_built_for_gpus() -> bool:
    """Whether the installed torch brings the library that drives GPUs; looks at files only."""
    spec = find_spec("torch")
    places = (spec.submodule_search_locations if spec else None) or ()
    return any((Path(place) / "lib" / name).exists() for place in places for name in LIBRARIES)


def find_gpus() -> list[Gpu]:
    """Every GPU of this machine, or of this container."""
    if program := shutil.which("nvidia-smi"):
        command = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        try:
            asked = subprocess.run(
                command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True
            )
            return [
                _described(line) for line in asked.stdout.splitlines() if line.count(",") >= len(QUERY) - 1
            ]
        except (OSError, subprocess.SubprocessError):
            pass  # it is there but cannot talk to the driver, or the driver hangs
    return [_shown_by_driver(place) for place in sorted(PROC.glob("*"))]


def _described(line: str) -> Gpu:
    _, name, total, free, driver = (word.strip() for word in line.split(",")[: len(QUERY)])
    return Gpu(name, _gib(total), _gib(free), driver)


def _gib(mebibytes: str) -> float | None:
    try:
        return float(mebibytes) / 1024
    except ValueError:  # [N/A]: memory shared with the processor
        return None


def _shown_by_driver(place: Path) -> Gpu:
    try:
        text = (place / "information").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Gpu("GPU")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Gpu(fields.get("Model", "GPU").strip())
