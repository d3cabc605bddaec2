"""The features sets of scenes are compared in: principal components, and a frozen network per dataset.

Both belong to a dataset, not to a model: they are made once from training scenes, kept in one file, and
named by its digest. Making them is `pipeline.training.feature_network`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo
from pipeline.errors import InputError
from pipeline.metrics.fewshot import real_scenes
from pipeline.metrics.fidelity import Prediction
from pipeline.models.feature_network import FeatureNetwork

VERSION = 1
"""Raised when the same training scenes would give other features."""

SIDE = 64
"""Larger scenes are brought to this height and width: colours averaged, depth and labels picked."""

PCA_SIDE = 16
"""Scenes are averaged down to this before their principal components are taken."""

COMPONENTS = 64
AT_ONCE = 64


def spread(length: int, count: int) -> Int64[np.ndarray, " row"]:
    """At most `count` row numbers, evenly spaced from the first to the last of `length`."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))


@dataclass(frozen=True)
class PrincipalComponents:
    """A projection of pooled scenes onto the directions in which training scenes differ most.

    Attributes:
        mean: Of training scenes.
        basis: Orthonormal directions, the most variable first, times the scale of each input.
    """

    mean: Float[Tensor, " input"]
    basis: Float[Tensor, "input component"]

    def __call__(self, maps: Float[Tensor, "scene channel height width"]) -> Float[Tensor, "scene component"]:
        """Coordinates of scenes."""
        return (pooled(maps) - self.mean) @ self.basis


@dataclass(frozen=True)
class SceneFeatures:
    """Frozen features of one dataset's scenes.

    Attributes:
        info: The dataset.
        components: Principal components of its training scenes.
        network: Trained on them.
    """

    info: DatasetInfo
    components: PrincipalComponents
    network: FeatureNetwork

    def pca(self, scenes: Prediction) -> Float[Tensor, "scene component"]:
        """Principal components of scenes that have every modality, in float64."""
        return self._of(scenes, self.components)

    def encoder(self, scenes: Prediction) -> Float[Tensor, "scene feature"]:
        """Features of scenes that have every modality, in float64."""
        return self._of(scenes, self.network)

    @torch.no_grad()
    def _of(self, scenes: Prediction, features: Callable[[Tensor], Tensor]) -> Tensor:
        starts = range(0, scene_count(scenes), AT_ONCE)
        parts = (scene_rows(scenes, slice(start, start + AT_ONCE)) for start in starts)
        return torch.cat([features(scene_maps(part, self.info)).double() for part in parts])


def scene_maps(scenes: Prediction, info: DatasetInfo) -> Float[Tensor, "scene channel height width"]:
    """Scenes as channels: RGB - 1/2, depth in standard deviations from its mean, labels as one-hot.

    A pixel without depth or label (0, 255) is 0 in those channels.

    Args:
        scenes: With every modality of the dataset.
        info: Scale of depth, and number of classes.
    """
    scenes = at_most(scenes, SIDE)
    maps = []
    if scenes.rgb is not None:
        maps.append(scenes.rgb - 0.5)
    if scenes.depth_m is not None and info.depth is not None:
        standard = (scenes.depth_m - info.depth.mean_m) / (info.depth.std_m or 1.0)
        maps.append(torch.where(scenes.depth_m > 0.0, standard, 0.0))
    if scenes.seg is not None:
        classes = len(info.class_names)
        rows = torch.eye(classes + 1, classes, device=scenes.seg.device)
        labels = scenes.seg.clamp_max(classes)
        maps.append(F.embedding(labels, rows).permute(0, 3, 1, 2))
    return torch.cat(maps, dim=1).contiguous(memory_format=torch.channels_last)


def channels_of(info: DatasetInfo) -> dict[str, slice]:
    """Which channels of `scene_maps` belong to which modality."""
    sizes = {"rgb": 3, "depth": 1, "seg": len(info.class_names)}
    slices, start = {}, 0
    for name in info.modalities:
        slices[name] = slice(start, start + sizes[name])
        start += sizes[name]
    return slices


def pooled(maps: Float[Tensor, "scene channel height width"]) -> Float[Tensor, "scene input"]:
    """Scenes averaged down to 16 x 16, as vectors."""
    return F.adaptive_avg_pool2d(maps, PCA_SIDE).flatten(1)


def fit_components(
    maps: Float[Tensor, "scene channel height width"], info: DatasetInfo, count: int = COMPONENTS
) -> PrincipalComponents:
    """Principal components of scenes in which every modality has the same total variance, 1.

    So no modality decides by its units, and the variance of all components together is at most the number
    of modalities.

    Args:
        maps: Training scenes.
        info: The dataset.
        count: Most components; fewer where the scenes span fewer.
    """
    rows = pooled(maps).double()
    centred = rows - rows.mean(dim=0)
    scale = torch.empty(maps.shape[1], dtype=torch.float64)
    variance = centred.square().mean(dim=0).view(maps.shape[1], -1).sum(dim=1)
    for channels in channels_of(info).values():
        total = float(variance[channels].sum())
        scale[channels] = total**-0.5 if total > 0.0 else 0.0
    by_input = scale.repeat_interleave(rows.shape[1] // len(scale))
    scaled = centred * by_input
    values, vectors = torch.linalg.eigh(scaled @ scaled.T)  # fewer scenes than inputs
    kept = values > values[-1] * 1e-9
    values, vectors = values[kept].flip(0)[:count], vectors[:, kept].flip(1)[:, :count]
    basis = by_input[:, None] * (scaled.T @ (vectors / values.sqrt()))
    return PrincipalComponents(rows.mean(dim=0).float(), basis.float().contiguous())


def at_most(scenes: Prediction, side: int) -> Prediction:
    """Scenes no larger than so many pixels on a side."""

    def size(part: Tensor | None) -> int:
        return 0 if part is None else part.shape[-1]

    if max(size(scenes.rgb), size(scenes.depth_m), size(scenes.seg)) <= side:
        return scenes
    return Prediction(
        None if scenes.rgb is None else F.adaptive_avg_pool2d(scenes.rgb, side),
        None if scenes.depth_m is None else _picked(scenes.depth_m, side),
        None if scenes.seg is None else _picked(scenes.seg, side),
    )


def complete_rows(dataset: ShardedDataset, split: str, length: int) -> Int64[np.ndarray, " row"]:
    """Those of the first so many rows of a split that have every modality."""
    rows = np.arange(length)
    if not length:
        return rows
    offset = dataset.places(split, rows).offset
    return rows[np.all([offset[name] >= 0 for name in dataset.info.modalities], axis=0)]


def read_scenes(dataset: ShardedDataset, split: str, rows: Int64[np.ndarray, " row"]) -> Prediction:
    """Complete scenes; 0 and 255 where a pixel has no value."""
    return real_scenes(dataset.read(split, rows))


def with_gaps_of(scenes: Prediction, real: Prediction) -> Prediction:
    """Scenes without depth and labels where as many real ones have none, so gaps tell nothing apart."""
    return Prediction(
        scenes.rgb,
        _masked(scenes.depth_m, None if real.depth_m is None else real.depth_m > 0.0, 0.0),
        _masked(scenes.seg, None if real.seg is None else real.seg != IGNORE_INDEX, IGNORE_INDEX),
    )


def scene_count(scenes: Prediction) -> int:
    """How many scenes."""
    return next(len(part) for part in (scenes.rgb, scenes.depth_m, scenes.seg) if part is not None)


def scene_rows(scenes: Prediction, rows: slice | Tensor) -> Prediction:
    """Some of the scenes."""
    parts = (scenes.rgb, scenes.depth_m, scenes.seg)
    return Prediction(*(None if part is None else part[rows] for part in parts))


def join_scenes(parts: list[Prediction]) -> Prediction:
    """Scenes of one dataset below each other; at least one part."""

    def joined(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        return None if tensors[0] is None else torch.cat(tensors)

    return Prediction(joined("rgb"), joined("depth_m"), joined("seg"))


def feature_bytes(features: SceneFeatures) -> bytes:
    """Everything but the dataset, in the safetensors format."""
    tensors = {f"network.{name}": tensor for name, tensor in features.network.state_dict().items()}
    tensors |= {"components.mean": features.components.mean, "components.basis": features.components.basis}
    return save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"version": str(VERSION)}
    )


def feature_digest(path: Path) -> str:
    """SHA-256 of a file of features: what names the yardstick."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_features(path: Path, info: DatasetInfo) -> SceneFeatures:
    """Read what `feature_bytes` gave; nothing in it is executed.

    Raises:
        InputError: If the file is missing, damaged, or made for other data or by another version.
    """
    try:
        with safe_open(path, "pt") as file:
            version = (file.metadata() or {}).get("version")
        if version != str(VERSION):
            raise InputError(f"{path}: features of version {version}, not {VERSION}; remove the file")
        tensors: Mapping[str, Tensor] = load_file(path)
        components = PrincipalComponents(tensors["components.mean"], tensors["components.basis"])
        network = FeatureNetwork(sum(s.stop - s.start for s in channels_of(info).values()))
        network.load_state_dict({
            name.removeprefix("network."): tensor
            for name, tensor in tensors.items()
            if name.startswith("network.")
        })
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: no scene features can be read from it ({reason}); remove the file"
        ) from None
    return SceneFeatures(info, components, network.eval().requires_grad_(False))


def _picked(value: Tensor, side: int) -> Tensor:
    """The pixel in the middle of each part of the image."""
    height, width = value.shape[-2:]
    rows = ((torch.arange(side) + 0.5) * height / side).long()
    columns = ((torch.arange(side) + 0.5) * width / side).long()
    return value[..., rows[:, None], columns]


def _masked(value: Tensor | None, valid: Tensor | None, gap: int | float) -> Tensor | None:
    return value if value is None or valid is None else torch.where(valid, value, gap)
