"""Train the network that sets of scenes are compared in: once per dataset, without labels of any kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import DatasetInfo
from pipeline.metrics.features import (
    SIDE,
    SceneFeatures,
    at_most,
    channels_of,
    complete_rows,
    fit_components,
    join_scenes,
    read_scenes,
    scene_count,
    scene_maps,
    scene_rows,
    spread,
)
from pipeline.metrics.fidelity import Prediction
from pipeline.models.feature_network import FeatureNetwork

SCENES = 2_500
"""Most training scenes that the network learns from, evenly spaced."""

COMPONENT_SCENES = 1_000
"""Most of them that principal components, and means and spreads of features, are taken of."""

STEPS = 100
BATCH = 64
LEARNING_RATE = 2e-3
TEMPERATURE = 0.1
BLOCKS = 4
"""A view hides blocks of a grid of 4 x 4."""

HIDDEN_SHARE = 0.5
AT_ONCE = 64


def fit_features(dataset: ShardedDataset, after_step: Callable[[], None] = lambda: None) -> SceneFeatures:
    """Principal components and a trained network of a dataset that has complete training scenes.

    The same dataset gives the same features on the same machine, threads and version of torch.
    """
    scenes = training_scenes(dataset, SCENES)
    count = scene_count(scenes)
    rows = torch.from_numpy(spread(count, COMPONENT_SCENES))
    components = fit_components(scene_maps(scene_rows(scenes, rows), dataset.info), dataset.info)
    network = train_feature_network(scenes, dataset.info, after_step=after_step)
    return SceneFeatures(dataset.info, components, network)


def train_feature_network(
    scenes: Prediction, info: DatasetInfo, steps: int = STEPS, after_step: Callable[[], None] = lambda: None
) -> FeatureNetwork:
    """Learn to tell which two views show the same scene; a view hides half the blocks of each modality.

    So features carry what blocks and modalities of one scene have in common: what is where, and how it
    looks. The loss of a batch of n scenes with views a and b, unit vectors f, and temperature t is

        -(1 / 2n) sum_i [log softmax_j(f(a_i) . f(b_j) / t)_i + log softmax_j(f(b_i) . f(a_j) / t)_i]

    Args:
        scenes: Complete training scenes.
        info: The dataset.
        steps: Optimiser steps.
        after_step: Called after each.

    Source: Chen et al. 2020 (arXiv:2002.05709), equation 1, in its two-sided form over pairs as in Radford
        et al. 2021; views of modalities as in Tian, Krishnan & Isola 2020 (arXiv:1906.05849).
    """
    channels = channels_of(info)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = FeatureNetwork(sum(part.stop - part.start for part in channels.values()))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    count = scene_count(scenes)
    for _ in range(steps):
        rows = torch.randperm(count, generator=generator)[:BATCH]
        maps = scene_maps(scene_rows(scenes, rows), info)
        first, second = (network.projected(hidden_half(maps, channels, generator)) for _ in range(2))
        optimiser.zero_grad()
        contrast(first, second).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        after_step()
    _standardise(network, scenes, info)
    return network.eval().requires_grad_(False)


def contrast(
    first: Float[Tensor, "scene feature"], second: Float[Tensor, "scene feature"]
) -> Float[Tensor, ""]:
    """How badly views of one scene find each other among those of all, in nats per view."""
    similarity = first @ second.T / TEMPERATURE
    own = torch.arange(len(first))
    return 0.5 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own))


def hidden_half(
    maps: Float[Tensor, "scene channel height width"],
    channels: dict[str, slice],
    generator: torch.Generator,
) -> Float[Tensor, "scene channel height width"]:
    """Every block of every modality is hidden with even odds; what is hidden is 0."""
    seen = torch.rand(len(maps), len(channels), BLOCKS, BLOCKS, generator=generator) >= HIDDEN_SHARE
    by_pixel = F.interpolate(seen.to(maps), size=maps.shape[-2:], mode="nearest")
    sizes = torch.tensor([part.stop - part.start for part in channels.values()])
    return maps * by_pixel.repeat_interleave(sizes, dim=1)


def training_scenes(dataset: ShardedDataset, count: int) -> Prediction:
    """At most so many complete training scenes, evenly spaced in the stored order; at least one."""
    known = complete_rows(dataset, "train", dataset.length("train"))
    rows = known[spread(len(known), count)]
    return join_scenes([
        at_most(read_scenes(dataset, "train", rows[start : start + AT_ONCE]), SIDE)
        for start in range(0, len(rows), AT_ONCE)
    ])


@torch.no_grad()
def _standardise(network: FeatureNetwork, scenes: Prediction, info: DatasetInfo) -> None:
    rows = torch.from_numpy(spread(scene_count(scenes), COMPONENT_SCENES))
    raw = torch.cat([
        network.raw(scene_maps(scene_rows(scenes, rows[start : start + AT_ONCE]), info))
        for start in range(0, len(rows), AT_ONCE)
    ])
    network.centre.copy_(raw.mean(dim=0))
    network.spread.copy_(raw.std(dim=0, correction=0).clamp_min(1e-6))
