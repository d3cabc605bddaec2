"""Scores of the scenes a model generates, as a set, beside what real scenes would score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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

Arrays = Mapping[str, np.ndarray]
Latents = tuple[Tensor, dict[str, Tensor]]
"""Shared, and private by modality."""

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

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """As named arrays."""
        kept = {f"{name}/pca": self.pca.numpy(), f"{name}/encoder": self.encoder.numpy()}
        return kept if self.sharpness is None else kept | {f"{name}/sharpness": self.sharpness.numpy()}


@dataclass(frozen=True)
class Reference:
    """Real scenes that generated ones are compared with.

    Attributes:
        dataset: Where they are.
        features: Of that dataset.
        test_rows: The test scenes, N.
        train_rows: All complete training scenes.
    """

    dataset: ShardedDataset
    features: SceneFeatures
    test_rows: Int64[np.ndarray, " test"]
    train_rows: Int64[np.ndarray, " train"]

    @property
    def known_rows(self) -> Int64[np.ndarray, " train"]:
        """As many training scenes as there are test scenes: what is possible."""
        rows: Int64[np.ndarray, " train"] = self.train_rows[spread(len(self.train_rows), len(self.test_rows))]
        return rows

    @property
    def searched_rows(self) -> Int64[np.ndarray, " train"]:
        """Training scenes that generated ones are looked for among."""
        rows: Int64[np.ndarray, " train"] = self.train_rows[spread(len(self.train_rows), TRAINING_SCENES)]
        return rows


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


def draw_latents(prior: LatentPrior, counts: Sequence[int], seed: int) -> list[Latents]:
    """The latents of generated scenes, part by part."""
    generator = torch.Generator().manual_seed(seed)
    return [prior.sample(count, generator) for count in counts]


def describe_generated(
    model: SharedLatentAutoencoder, latents: Latents, reference: Reference, rows: slice
) -> dict[str, np.ndarray]:
    """What is kept of some generated scenes, and of the test scenes of the same numbers.

    A generated scene has no depth and no label where the test scene of the same number has none.
    """
    real = read_scenes(reference.dataset, "test", reference.test_rows[rows])
    made = with_gaps_of(_decode(model, latents), real)
    described = {"generated": made, "tested": real}
    return _arrays({name: _describe(scenes, reference.features) for name, scenes in described.items()})


def describe_known(reference: Reference, rows: slice) -> dict[str, np.ndarray]:
    """What is kept of some training scenes."""
    scenes = read_scenes(reference.dataset, "train", reference.known_rows[rows])
    return _arrays({"known": _describe(scenes, reference.features)})


def describe_searched(reference: Reference, rows: slice) -> dict[str, np.ndarray]:
    """What is kept of some of the training scenes that generated ones are looked for among."""
    scenes = read_scenes(reference.dataset, "train", reference.searched_rows[rows])
    return {"searched": reference.features.pca(scenes).numpy()}


def score_generated(
    generated: Iterable[Arrays], known: Iterable[Arrays], searched: Iterable[Arrays]
) -> dict[str, float]:
    """`prior/*` and, for as many training scenes, `real/*`, as docs/metrics.md defines them.

    Args:
        generated: From `describe_generated`, in order.
        known: From `describe_known`.
        searched: From `describe_searched`.

    Returns:
        A NaN alone if the model's scenes are not finite.
    """
    parts = list(generated)
    made, tested = _scene_set(parts, "generated"), _scene_set(parts, "tested")
    if not bool(made.pca.isfinite().all() and made.encoder.isfinite().all()):
        return {"prior/fd_pca": math.nan}
    training = torch.from_numpy(np.concatenate([part["searched"] for part in searched]))
    return (
        {f"prior/{name}": value for name, value in compare(made, tested).items()}
        | {"prior/memorisation": copied_share(made.pca, training, tested.pca)}
        | {"prior/scenes": float(len(made))}
        | {f"real/{name}": value for name, value in compare(_scene_set(list(known), "known"), tested).items()}
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


def _decode(model: SharedLatentAutoencoder, latents: Latents) -> Prediction:
    device = next(model.parameters()).device
    shared, private = latents
    decoded = model.decode(shared.to(device), {name: value.to(device) for name, value in private.items()})
    scenes = predict(model, decoded)
    return Prediction(*(None if p is None else p.cpu() for p in (scenes.rgb, scenes.depth_m, scenes.seg)))


def _describe(scenes: Prediction, features: SceneFeatures) -> SceneSet:
    sharpness = None if scenes.rgb is None else edge_energy(scenes.rgb)
    return SceneSet(features.pca(scenes), features.encoder(scenes), sharpness)


def _arrays(sets: Mapping[str, SceneSet]) -> dict[str, np.ndarray]:
    return {key: array for name, scenes in sets.items() for key, array in scenes.arrays(name).items()}


def _scene_set(parts: Sequence[Arrays], name: str) -> SceneSet:
    def joined(kept: str) -> Tensor:
        return torch.from_numpy(np.concatenate([part[f"{name}/{kept}"] for part in parts]))

    sharp = f"{name}/sharpness" in parts[0]
    return SceneSet(joined("pca"), joined("encoder"), joined("sharpness") if sharp else None)
