"""How long after one of two training processes was killed both of them train again.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/restart.py [--rounds 5] [--json FILE]

A training of the default model starts under its supervisor with MAX_RESTARTS. Once a checkpoint is there the
second process is killed (SIGKILL), again and again, and the clock runs until the progress that people see has
moves on from the checkpoint that both went back to. Progress is written once a second, so what is found is
up to a second too long. Beside it: how long the first start of the same processes took.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "demo.yaml"
OVERRIDES = (
    "train.samples=1000000",
    "train.checkpoint_samples=1280",
    "train.validation_samples=0",
    "tracking.enabled=false",
    "data.source.count=600",
)
POLL_S = 0.02
PATIENCE_S = 300.0


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restart-") as directory:
        found = measure(Path(directory), arguments.rounds)
    again = ", ".join(f"{seconds:.1f}" for seconds in found["again_s"])
    print(f"from the start of the stage to training: {found['first_s']:.1f} s")
    print(f"from a kill to training again: median {statistics.median(found['again_s']):.1f} s ({again})")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def measure(root: Path, rounds: int) -> dict[str, float | list[float]]:
    """Seconds from the start to training, and from each kill."""
    command = [sys.executable, "-m", "stages", "run", str(CONFIG), "--root", str(root), "--nproc", "2"]
    command += ["--until", "train", *(part for value in OVERRIDES for part in ("--set", value))]
    environment = os.environ | {"MAX_RESTARTS": str(rounds), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=HERE.parent, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as run:
        try:
            began_s = wait_for(lambda: bool(ranks(run.pid)))
            first_s = wait_for(lambda: samples(root) > 0) - began_s
            again_s = [kill_once(root, run.pid) for _ in range(rounds)]
        finally:
            run.terminate()
    return {"first_s": first_s, "again_s": again_s}


def kill_once(root: Path, supervisor: int) -> float:
    """Kill the second process as soon as there is a checkpoint and more; seconds until they train again."""
    wait_for(lambda: samples(root) > newest(root) > 0)
    _, second = ranks(supervisor)
    killed_at = time.time()
    os.kill(second, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for(lambda: progress(root).get("updated", 0) > killed_at and progress(root).get("per_second") == 0)
    return wait_for(lambda: progress(root).get("per_second", 0) > 0) - killed_s


def wait_for(condition: Callable[[], bool]) -> float:
    """The time at which something holds.

    Raises:
        TimeoutError: If it does not come to hold.
    """
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"still waiting after {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic()


def progress(root: Path) -> dict[str, float]:
    """What the training stage says of itself; nothing before it does."""
    try:
        said: dict[str, float] = json.loads((root / "demo" / ".progress.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return said if said.get("stage") == "train" else {}


def samples(root: Path) -> float:
    """That it has seen."""
    return progress(root).get("done", 0)


def newest(root: Path) -> int:
    """Samples of the newest checkpoint; 0 without one."""
    names = [path.name for path in (root / "demo" / "train" / "checkpoints").glob("0*")]
    return int(max(names, default="0"))


def ranks(supervisor: int) -> list[int]:
    """Processes of the training stage, the first rank first; none while there are not two."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes().split(b"\0")
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        rank = next((int(part[5:]) for part in environment if part.startswith(b"RANK=")), None)
        if rank is not None and b"stages.worker" in command and descends(int(directory.name), supervisor):
            found[rank] = int(directory.name)
    return [found[0], found[1]] if found.keys() == {0, 1} else []


def descends(process: int, ancestor: int) -> bool:
    """Whether a process was started by another, or by one that was."""
    while process not in (0, 1, ancestor):
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return process == ancestor


if __name__ == "__main__":
    main()
