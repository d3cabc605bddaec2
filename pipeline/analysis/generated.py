"""Scores of the scenes a model generates, as a set, beside what real scenes would score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.metrics.features import (
    SceneFeatures,
    complete_rows,
    read_scenes,
    scene_count,
    spread,
    with_gaps_of,
)
from pipeline.metrics.fidelity import Prediction, predict
from pipeline.metrics.generation import (
    copied_share,
    density_and_coverage,
    edge_energy,
    frechet_distance,
    kernel_distance,
)
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.prior import LatentPrior

FEWEST = 50
"""Complete test scenes below which nothing is said of sets."""

TRAINING_SCENES = 4_000
"""Most training scenes that generated ones are looked for among, evenly spaced."""


@dataclass(frozen=True)
class SceneSet:
    """What is kept of a set of scenes.

    Attributes:
        pca: Principal components.
        encoder: Features of the frozen network.
        sharpness: Edge energy of each RGB image; None without RGB.
    """

    pca: Float[Tensor, "scene component"]
    encoder: Float[Tensor, "scene feature"]
    sharpness: Float[Tensor, " scene"] | None

    def __len__(self) -> int:
        return len(self.pca)


@dataclass(frozen=True)
class Reference:
    """Real scenes that generated ones are compared with.

    Attributes:
        dataset: Where they are.
        features: Of that dataset.
        test_rows: The test scenes, N.
        train_rows: All complete training scenes.
        batch: Scenes read and decoded at once.
    """

    dataset: ShardedDataset
    features: SceneFeatures
    test_rows: Int64[np.ndarray, " test"]
    train_rows: Int64[np.ndarray, " train"]
    batch: int

    def read(self, split: str, rows: Int64[np.ndarray, " row"]) -> Iterator[Prediction]:
        """Some scenes, part by part."""
        for start in range(0, len(rows), self.batch):
            yield read_scenes(self.dataset, split, rows[start : start + self.batch])


def reference_rows(
    dataset: ShardedDataset, tested: int, scenes: int
) -> tuple[Int64[np.ndarray, " test"], Int64[np.ndarray, " train"]] | None:
    """Rows of the test scenes to compare with and of all training scenes, only complete ones.

    Args:
        dataset: Where they are.
        tested: How many test samples may be used; the first so many.
        scenes: Most test scenes, evenly spaced.

    Returns:
        None where there are fewer than 50 of either.
    """
    test = complete_rows(dataset, "test", tested)
    train = complete_rows(dataset, "train", dataset.length("train"))
    if min(len(test), len(train), scenes) < FEWEST:
        return None
    return test[spread(len(test), scenes)], train


def score_generated(
    model: SharedLatentAutoencoder,
    prior: LatentPrior,
    reference: Reference,
    seed: int,
    after: Callable[[int], None] = lambda scenes: None,
) -> dict[str, float]:
    """`prior/*` and, for as many training scenes, `real/*`, as docs/metrics.md defines them.

    A generated scene has no depth and no label where the test scene of the same number has none.

    Args:
        model: Trained.
        prior: What its latents are drawn from.
        reference: What to compare with.
        seed: Chooses the generated scenes.
        after: Told how many scenes were generated.

    Returns:
        A NaN alone if the model's scenes are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    real_parts: list[SceneSet] = []
    made_parts: list[SceneSet] = []
    for real in reference.read("test", reference.test_rows):
        made = with_gaps_of(_generate(model, prior, scene_count(real), generator), real)
        real_parts.append(_describe(real, reference.features))
        made_parts.append(_describe(made, reference.features))
        after(scene_count(real))
    tested, generated = _joined(real_parts), _joined(made_parts)
    if not bool(generated.pca.isfinite().all() and generated.encoder.isfinite().all()):
        return {"prior/fd_pca": math.nan}
    rows = reference.train_rows
    known = reference.read("train", rows[spread(len(rows), len(tested))])
    trained = _joined(_describe(part, reference.features) for part in known)
    searched = reference.read("train", rows[spread(len(rows), TRAINING_SCENES)])
    training = torch.cat([reference.features.pca(part) for part in searched])
    return (
        {f"prior/{name}": value for name, value in compare(generated, tested).items()}
        | {"prior/memorisation": copied_share(generated.pca, training, tested.pca)}
        | {"prior/scenes": float(len(generated))}
        | {f"real/{name}": value for name, value in compare(trained, tested).items()}
    )


def compare(scenes: SceneSet, real: SceneSet) -> dict[str, float]:
    """Every score that takes two sets."""
    density = density_and_coverage(scenes.encoder, real.encoder)
    scores = {
        "fd_pca": frechet_distance(scenes.pca, real.pca),
        "fd_encoder": frechet_distance(scenes.encoder, real.encoder),
        "kid": kernel_distance(scenes.encoder, real.encoder),
        "density": density.density,
        "coverage": density.coverage,
    }
    if scenes.sharpness is not None and real.sharpness is not None:
        edges = float(real.sharpness.mean())
        if edges > 0.0:
            scores["sharpness"] = float(scenes.sharpness.mean()) / edges
    return scores


def _generate(
    model: SharedLatentAutoencoder, prior: LatentPrior, count: int, generator: torch.Generator
) -> Prediction:
    device = next(model.parameters()).device
    shared, private = prior.sample(count, generator)
    decoded = model.decode(shared.to(device), {name: value.to(device) for name, value in private.items()})
    scenes = predict(model, decoded)
    return Prediction(*(None if p is None else p.cpu() for p in (scenes.rgb, scenes.depth_m, scenes.seg)))


def _describe(scenes: Prediction, features: SceneFeatures) -> SceneSet:
    sharpness = None if scenes.rgb is None else edge_energy(scenes.rgb)
    return SceneSet(features.pca(scenes), features.encoder(scenes), sharpness)


def _joined(parts: Iterable[SceneSet]) -> SceneSet:
    rows = list(parts)
    sharpness = [part.sharpness for part in rows if part.sharpness is not None]
    return SceneSet(
        torch.cat([part.pca for part in rows]),
        torch.cat([part.encoder for part in rows]),
        torch.cat(sharpness) if sharpness else None,
    )
