"""A worker whose stages do next to nothing, so that orchestration is tested in seconds.

The supervisor is given this module instead of `stages.worker`. Environment variables, each naming a
stage, steer it: FAKE_GATE waits until there is a file `go` in the working directory, FAKE_DEAF waits
for ever and hears no request to stop, FAKE_FAIL, FAKE_REFUSE and FAKE_FULL fail in their ways,
the second in the process of rank FAKE_RANK alone if that is set.

Of several processes the first does everything, and the others stay until it has finished. On several
machines they are started without torchrun's agent.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from pipeline.config import Config
from pipeline.durable import write_text
from pipeline.errors import InputError, Interrupted
from pipeline.orchestration.ledger import RECORD
from pipeline.orchestration.nodes import Meeting
from pipeline.orchestration.nodes_agent import STOP_FILE, UNDER_AGENT, run_processes
from pipeline.orchestration.processes import PARENT
from pipeline.orchestration.stage import Context, Manifest
from stages import worker


def run_stage(config: Config, context: Context, stage: str) -> Manifest:
    if os.environ.get("FAKE_FAIL") == stage:
        raise RuntimeError("the fake stage fails as told")
    refusing = os.environ.get("FAKE_RANK", str(context.world.rank)) == str(context.world.rank)
    if os.environ.get("FAKE_REFUSE") == stage and refusing:
        with (context.directory.parent / f"{stage}.refused").open("a") as file:
            file.write(str(context.world.rank))
        raise InputError("frame_0003.png: the image is truncated; replace it")
    if os.environ.get("FAKE_FULL") == stage:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/full.tar")
    if not context.world.is_main:
        return _stand_by(context, stage)
    (context.directory / "started").write_text("")
    if stage == "train":
        return _train(config, context)
    _wait_at_gate(context, stage)
    if stage == "shard":
        (context.directory / "dataset.json").write_text(json.dumps(config.data.model_dump(mode="json")))
    (context.directory / "result.txt").write_text(f"{stage} {config.seed}\n")
    return Manifest({"score": 1.5, "other": 2.0}, ("score",), {"result": "result.txt"}, {"seconds": 0.1})


def _train(config: Config, context: Context) -> Manifest:
    """Count to train.samples in steps of the batch, saving after every step."""
    saved = context.directory / "saved.txt"
    seen = int(saved.read_text()) if saved.exists() else 0
    context.progress.start("training", config.train.samples, "samples", seen)
    while seen < config.train.samples:
        seen += config.train.batch
        write_text(context.directory / "history.jsonl", _history(seen, config.train.batch))
        write_text(saved, str(seen))
        context.progress.advance(config.train.batch)
        _wait_at_gate(context, "train")
        if context.stop_requested():
            raise Interrupted
    (context.directory / "model.safetensors").write_text(f"{config.seed} {config.train.learning_rate} {seen}")
    (context.directory / "model.json").write_text("{}")
    return Manifest({"loss": 0.5}, ("loss",))


def _stand_by(context: Context, stage: str) -> Manifest:
    (context.directory.parent / f"{stage}.helped-by-{context.world.rank}").write_text("")
    while (record := context.directory / RECORD).exists() and '"running"' in record.read_text():
        if context.stop_requested():
            raise Interrupted
        time.sleep(0.02)
    return Manifest()


def start(
    command: list[str], processes: int, max_restarts: int, meeting: Meeting | None, *, resumable: bool
) -> int:
    """What torchrun's agent does, as far as these tests are concerned."""
    if meeting is None:
        return run_processes(command, processes, max_restarts, None, resumable=resumable)
    first = 0 if meeting.is_lead else processes
    stop = Path(f"stop-{os.getpid()}")
    environment = {**os.environ, PARENT: str(os.getpid()), STOP_FILE: str(stop.absolute()), UNDER_AGENT: "x"}
    started = []

    def ask(number: int, frame: FrameType | None) -> None:
        stop.touch()
        for process in [] if resumable else started:
            process.terminate()

    signal.signal(signal.SIGTERM, ask)
    for local in range(processes):
        world = {"RANK": first + local, "WORLD_SIZE": meeting.nodes * processes, "LOCAL_RANK": local}
        texts = {name: str(value) for name, value in world.items()}
        started.append(subprocess.Popen([sys.executable, "-m", *command], env={**environment, **texts}))
    return max(process.wait() for process in started)


def _wait_at_gate(context: Context, stage: str) -> None:
    while os.environ.get("FAKE_DEAF") == stage:
        time.sleep(0.05)
    while os.environ.get("FAKE_GATE") == stage and not Path("go").exists() and not context.stop_requested():
        time.sleep(0.02)


def _history(seen: int, batch: int) -> str:
    done = range(batch, seen + 1, batch)
    return "".join(json.dumps({"samples_seen": count, "loss": 1 / count}) + "\n" for count in done)


if __name__ == "__main__":
    sys.exit(worker.main(run_stage, module="tests.launch.fake_worker", start=start))
