"""A worker whose stages do next to nothing, so that orchestration is tested in seconds.

The supervisor is given this module instead of `stages.worker`. Behaviour of a stage is steered by
environment variables: FAKE_SLOW=stage:seconds, FAKE_FAIL=stage, FAKE_REFUSE=stage.
"""

import json
import os
import sys
import time

from pipeline.config import Config
from pipeline.errors import InputError, Interrupted
from pipeline.orchestration.stage import Context, Manifest
from stages import worker


def run_stage(config: Config, context: Context, stage: str) -> Manifest:
    if os.environ.get("FAKE_FAIL") == stage:
        raise RuntimeError("the fake stage fails as told")
    if os.environ.get("FAKE_REFUSE") == stage:
        raise InputError("frame_0003.png: the image is truncated; replace it")
    (context.directory / "started").write_text("")
    if stage == "train":
        return _train(config, context)
    name, _, seconds = os.environ.get("FAKE_SLOW", "").partition(":")
    if name == stage:
        time.sleep(float(seconds))
    if stage == "shard":
        (context.directory / "dataset.json").write_text(json.dumps(config.data.model_dump(mode="json")))
    (context.directory / "result.txt").write_text(f"{stage} {config.seed}\n")
    return Manifest({"score": 1.5, "other": 2.0}, ("score",), {"result": "result.txt"}, {"seconds": 0.1})


def _train(config: Config, context: Context) -> Manifest:
    """Count to train.samples in steps of the batch, saving after every step."""
    saved = context.directory / "saved.txt"
    seen = int(saved.read_text()) if saved.exists() else 0
    name, _, seconds = os.environ.get("FAKE_SLOW", "").partition(":")
    context.progress.start("training", config.train.samples, "samples", seen)
    while seen < config.train.samples:
        if context.stop_requested():
            raise Interrupted
        if name == "train":
            time.sleep(float(seconds))
        seen += config.train.batch
        saved.write_text(str(seen))
        context.progress.advance(config.train.batch)
        with (context.directory / "history.jsonl").open("a") as history:
            history.write(json.dumps({"samples_seen": seen, "loss": 1 / seen}) + "\n")
    (context.directory / "model.safetensors").write_text(f"{config.seed} {config.train.learning_rate} {seen}")
    (context.directory / "model.json").write_text("{}")
    return Manifest({"loss": 0.5}, ("loss",))


if __name__ == "__main__":
    sys.exit(worker.main(run_stage, module="tests.launch.fake_worker"))
