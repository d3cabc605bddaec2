"""Every system on small random scenes, from the overlays a user would take."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.system import contradictions
from pipeline.config.training import Train
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.models.autoencoder import SharedLatentAutoencoder, build_autoencoder
from pipeline.training.checkpoint import TrainingState
from pipeline.training.peers import Peers
from pipeline.training.update import Rules, Update, make_update, start

OVERLAYS = Path(__file__).parents[2] / "configs" / "systems"
CLASSES, SIZE, BATCH, UPDATES = 4, 32, 8, 6

INFO = DatasetInfo(
    modalities=("rgb", "depth", "seg"),
    class_names=tuple(f"class{index}" for index in range(CLASSES)),
    image_size=SIZE,
    counts={"train": 64},
    depth=DepthStatistics(3.0, 0.5, 1.0, 5.0, 1.1, 0.2),
)

TRAIN = Train(
    samples=BATCH * UPDATES,
    batch=BATCH,
    warmup_samples=0,
    ema_half_life_samples=16,
    learning_rate=3e-3,
    clip_gradient_norm=2000.0,
)

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "factor": ("vae", {}, {"regulariser": {"kind": "tc", "estimator": "discriminator"}}),
    "free_bits": ("vae", {}, {"regulariser": {"kind": "kl", "free_bits": 0.05}}),
    "capacity": ("vae", {}, {"regulariser": {"kind": "kl", "capacity": 3.0, "capacity_samples": 64}}),
    "mmvaeplus": (
        "vae",
        {"fusion": "mmvaeplus"},
        {"regulariser": {"kind": "kl", "importance_samples": 2, "estimator": "dreg"}},
    ),
    "mvae": ("vae", {"fusion": "poe", "subsets": "subsampled"}, {}),
    "mvtcae": ("vae", {"fusion": "mvtcae"}, {}),
    "aae_mixture": ("aae", {}, {"regulariser": {"kind": "adversarial", "prior": "mixture"}}),
    "hinge": ("vaegan", {}, {"adversary": {"kind": "image", "loss": "hinge", "fakes": "reconstructions"}}),
    "dropout": ("vae", {"dropout": 0.2}, {}),
    "map": ("vaegan", {"latent": [2, 4, 4]}, {}),
}
"""Beside the overlays: name -> (overlay, changes of the model, changes of the objective)."""


def names() -> list[str]:
    return [*sorted(path.stem for path in OVERLAYS.glob("*.yaml")), *VARIANTS]


def choose(name: str) -> tuple[Model, Objective]:
    overlay, model, objective = VARIANTS.get(name, (name, {}, {}))
    values = _read(overlay)
    values["model"] = {"latent": 6, "private": {"rgb": 3}, "width": 8} | values.get("model", {}) | model
    values["objective"] = {"beta_warmup_samples": 0} | values.get("objective", {}) | objective
    adversary = values["objective"].get("adversary", {})
    if adversary.get("kind") == "image":
        at_once = {"start_samples": 0, "warmup_samples": 0, "ramp_samples": 16, "width": 8}
        values["objective"]["adversary"] = adversary | at_once
    chosen = Model(**values["model"]), Objective(**values["objective"])
    assert not list(contradictions(*chosen))
    return chosen


def begin(
    name: str, dtype: torch.dtype, divide: Callable[[SharedLatentAutoencoder], None] = lambda model: None
) -> TrainingState:
    model, objective = choose(name)
    whole = build_autoencoder(model, objective, INFO, seed=0).to(dtype)
    state = start(whole, objective, TRAIN, seed=0, divide=divide)
    state.discriminators.to(dtype)
    return state


def rules(name: str, rank: int = 0, size: int = 1, accumulation: int = 1) -> Rules:
    train = TRAIN.model_copy(update={"accumulation": accumulation})
    return Rules(*choose(name), train, seed=0, rank=rank, world_size=size, dataset_size=64)


def updates(
    name: str, state: TrainingState, *, peers: Peers | None = None, accumulation: int = 1, **wrapped: Any
) -> Update:
    size, rank = (peers.size, torch.distributed.get_rank()) if peers else (1, 0)
    return make_update(
        state,
        wrapped.get("model", state.model),
        rules(name, rank, size, accumulation),
        peers,
        wrapped.get("discriminators"),
    )


def learn(
    update: Update,
    state: TrainingState,
    dtype: torch.dtype,
    first: int,
    last: int,
    rank: int = 0,
    size: int = 1,
) -> list[dict[str, float]]:
    """What some of the updates reported, each of this process's rows of its global batch."""
    reports, local = [], BATCH // size
    for batch in batches(dtype, first, last):
        reports.append(update(batch.rows(rank * local, (rank + 1) * local)))
        state.samples_seen += BATCH
    return reports


def weights(state: TrainingState) -> list[torch.Tensor]:
    """Of the model, its average and its discriminators."""
    modules = (state.model, state.average, state.discriminators)
    return [value for module in modules for value in module.state_dict().values()]


def batches(dtype: torch.dtype, first: int, last: int) -> Iterator[Batch]:
    """Some of the first updates' global batches; some rows lack depth, some pixels have none."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        valid = torch.rand(BATCH, SIZE, SIZE, generator=generator) < 0.9
        all_valid = torch.ones_like(valid)
        present = torch.arange(BATCH) % 3 != 0
        rgb = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
        depth = 1 + 4 * torch.rand(BATCH, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        labels = torch.randint(CLASSES, (BATCH, SIZE, SIZE), generator=generator)
        everywhere = torch.ones(BATCH, dtype=torch.bool)
        yield Batch(
            {
                "rgb": ModalityBatch(rgb.to(dtype), everywhere, all_valid),
                "depth": ModalityBatch(depth.to(dtype), present, valid & present[:, None, None]),
                "seg": ModalityBatch(labels, everywhere, all_valid),
            },
            tuple(str(row) for row in range(BATCH)),
            torch.arange(BATCH),
        )


def _read(overlay: str) -> dict[str, Any]:
    values = yaml.safe_load((OVERLAYS / f"{overlay}.yaml").read_text())
    if base := values.pop("extends", None):
        below = _read(Path(base).stem)
        for section, own in values.items():
            below[section] = below.get(section, {}) | own
        values = below
    return values
