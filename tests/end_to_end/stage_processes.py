"""Stages in several processes, as forks of this one, so that nothing is imported again."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from squares import CLASS_NAMES, SIDE, context, scene

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.schema import Adapt, Analyze, Evaluate, Synthesize
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Factor
from pipeline.data.shards.dataset import write_dataset
from pipeline.metrics.features import SceneFeatures, fit_components, scene_maps
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import save_pretrained
from pipeline.orchestration.stage import Context, Manifest, World
from pipeline.training.feature_network import train_feature_network, training_scenes
from stages import adapt, analyze, evaluate, synthesize

COUNTS = {"train": 60, "test": 54, "heldout": 12}
FAILED = "failed.txt"

Stage = Callable[[Context], Manifest]


def _evaluate(own: Context) -> Manifest:
    settings = Evaluate(
        batch=8, pictures=2, nll_samples=20, nll_importance=2, generated=52, inversion_samples=8, prior="gmm"
    )
    return evaluate.run(settings, own)


def _adapt(own: Context) -> Manifest:
    return adapt.run(Adapt(shots=(1, 3), draws=2, query=5, steps=3, batch=4, nll_importance=2), own)


def _analyze(own: Context) -> Manifest:
    settings = Analyze(
        samples=110, traversal_latents=3, traversal_steps=3, anchors=2, permutations=1, bootstrap=2
    )
    return analyze.run(settings, own)


def _synthesize(own: Context) -> Manifest:
    return synthesize.run(Synthesize(count=600, prior="gmm"), own)


STAGES: dict[str, Stage] = {
    "evaluate": _evaluate,
    "adapt": _adapt,
    "analyze": _analyze,
    "synthesize": _synthesize,
}


def prepare(root: Path) -> dict[str, Path]:
    """Squares with a known factor, discs held out, and a model with random weights."""
    splits = [split for split, count in COUNTS.items() for _ in range(count)]
    samples = [
        (split, replace(scene(number, split == "heldout"), factors={"parity": number % 2}))
        for number, split in enumerate(splits)
    ]
    factors = (Factor("parity", ("even", "odd")),)
    info = write_dataset(root / "dataset", samples, class_names=CLASS_NAMES, image_size=SIDE, factors=factors)
    (root / "train").mkdir()
    config, objective = Model(latent=4, private={"rgb": 2, "seg": 2}, width=8), Objective()
    model = build_autoencoder(config, objective, info, seed=0)
    save_pretrained(root / "train", model, config, objective, info)
    return {"dataset": root / "dataset", "train": root / "train"}


def quick_features(dataset: ShardedDataset, after_step: Callable[[], None]) -> SceneFeatures:
    """The features of a dataset after two steps of training instead of many."""
    scenes = training_scenes(dataset, 50)
    components = fit_components(scene_maps(scenes, dataset.info), dataset.info, 8)
    return SceneFeatures(dataset.info, components, train_feature_network(scenes, dataset.info, steps=2))


def run(stage: Stage, size: int, directory: Path, inputs: dict[str, Path]) -> Manifest:
    """Do a stage in so many processes, of which this is the first; the others must end well."""
    others = start(stage, range(1, size), size, directory, inputs)
    try:
        return stage(_context(directory, inputs, World(0, size, 0, size)))
    finally:
        for process in others:
            process.join(60)
        assert [process.exitcode for process in others] == [0] * len(others)


def start(
    stage: Stage, ranks: Sequence[int], size: int, directory: Path, inputs: dict[str, Path]
) -> list[BaseProcess]:
    """Some of a stage's processes."""
    directory.mkdir(parents=True, exist_ok=True)
    contexts = [_context(directory, inputs, World(rank, size, rank, size)) for rank in ranks]
    fork = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = [fork.Process(target=_work, args=(stage, own)) for own in contexts]
    for process in processes:
        process.start()
    return processes


def parts(directory: Path) -> dict[str, int]:
    """When each part of a stage's work was made."""
    found = sorted(directory.glob(".parts/*/*.part"))
    return {path.relative_to(directory).as_posix(): path.stat().st_mtime_ns for path in found}


def _context(directory: Path, inputs: dict[str, Path], world: World) -> Context:
    failed = directory.parent / FAILED
    return replace(
        context(directory, inputs, world=world),
        root=directory.parent,
        peer_failure=lambda: failed.read_text() if failed.exists() else None,
    )


def _work(stage: Stage, own: Context) -> None:
    torch.set_num_threads(1)
    try:
        stage(own)
    except Exception as error:  # noqa: BLE001 (the border of the process)
        (own.directory.parent / FAILED).write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)
