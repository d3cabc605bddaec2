"""Every system goes through every stage, and gives the numbers it can give and no others."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from squares import context

from pipeline.config import load_config
from pipeline.config.schema import Adapt, Analyze, Config, Evaluate, Synthesize
from pipeline.config.training import Train
from pipeline.orchestration.stage import Manifest
from stages import adapt, analyze, evaluate, synthesize, train
from stages.train import TrainInputs

pytestmark = pytest.mark.slow

OVERLAYS = Path(__file__).parents[2] / "configs" / "systems"
SYSTEMS = sorted(path.stem for path in OVERLAYS.glob("*.yaml"))
WITH_LIKELIHOOD = {"vae", "betatc", "vaegan"}

SETTINGS = Train(
    samples=640, batch=16, learning_rate=3e-3, warmup_samples=160, precision="fp32", device="cpu"
)


def config_of(system: str, directory: Path) -> Config:
    path = directory / f"{system}.yaml"
    path.write_text(f"extends: {OVERLAYS / system}.yaml\nname: test\ndata: {{source: {{kind: rooms}}}}\n")
    small = ["model.latent=8", "model.width=8", "objective.beta_warmup_samples=160"]
    if system == "vaegan":
        small += [f"objective.adversary.{part}_samples=160" for part in ("start", "warmup", "ramp")]
    return load_config(path, small)


def run(system: str, data: Mapping[str, Path], directory: Path) -> dict[str, Manifest]:
    config = config_of(system, directory)
    inputs = {"dataset": data["dataset"], "train": directory / "train"}
    trained = train.run(
        TrainInputs(config.model, config.objective, SETTINGS), context(directory / "train", inputs)
    )
    scored = Evaluate(nll_samples=8, nll_importance=2, pictures=2, inversion_samples=4, generated=0)
    few = Adapt(shots=(2,), draws=1, query=4, steps=4, batch=8)
    small = Analyze(
        samples=24, traversal_latents=2, traversal_steps=3, anchors=1, permutations=1, bootstrap=1
    )
    return {
        "train": trained,
        "evaluate": evaluate.run(scored, context(directory / "evaluate", inputs)),
        "adapt": adapt.run(few, context(directory / "adapt", inputs)),
        "analyze": analyze.run(small, context(directory / "analyze", inputs)),
        "synthesize": synthesize.run(Synthesize(count=4), context(directory / "synthesize", inputs)),
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_stage_of_a_system_runs_and_says_what_it_can(
    system: str, trained: dict[str, Path], tmp_path: Path
) -> None:
    done = run(system, trained, tmp_path)
    for stage, manifest in done.items():
        broken = [name for name, value in manifest.metrics.items() if not math.isfinite(value)]
        assert not broken, f"{stage}: {broken}"
    assert ("rgb+depth+seg/nll_nats" in done["evaluate"].metrics) == (system in WITH_LIKELIHOOD)
    assert ("k2/nll_nats" in done["adapt"].metrics) == (system in WITH_LIKELIHOOD)
    assert done["evaluate"].metrics["rgb/seg_miou"] > 0
    assert (tmp_path / "evaluate" / "pictures" / "overview.png").is_file()
    assert (tmp_path / "synthesize" / "dataset.json").is_file()
