"""The constant predictor: the best single scene for a training set, which every model has to beat."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.metrics.fidelity import Prediction


def pixel_sums(batches: Iterable[Batch], classes: int) -> dict[str, np.ndarray]:
    """Per pixel and modality what values come to (of labels: how often each occurs), and how many there are.

    Args:
        batches: Training samples.
        classes: Number of labels.

    Returns:
        `<modality>/total` in float64 or as counts, and `<modality>/count`.
    """
    sums: dict[str, Tensor] = {}
    for batch in batches:
        for name, modality in batch.modalities.items():
            mask = modality.valid & modality.present[:, None, None]
            if name == "seg":
                total = _label_counts(modality.value, mask, classes)
            else:
                total = torch.where(mask[:, None], modality.value, 0.0).double().sum(dim=0)
            for key, value in ((f"{name}/total", total), (f"{name}/count", mask.sum(dim=0))):
                sums[key] = sums[key] + value if key in sums else value
    return {key: value.numpy() for key, value in sums.items()}


def constant_scene(parts: Iterable[Mapping[str, np.ndarray]]) -> Prediction:
    """Per pixel the mean RGB, the mean depth and the most frequent label.

    A pixel without any value in the training data takes the mean (label: the most frequent) of all pixels.

    Args:
        parts: `pixel_sums` of some training samples each; at least one.

    Returns:
        A prediction of one row; a modality of which there is no value is None.
    """
    sums: dict[str, Tensor] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums[key] + torch.from_numpy(value) if key in sums else torch.from_numpy(value)

    def of(name: str, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        count = sums.get(f"{name}/count")
        return None if count is None or not bool(count.any()) else reduce(sums[f"{name}/total"], count)

    return Prediction(of("rgb", _mean), of("depth", _mean), of("seg", _majority))


def _mean(
    total: Float[Tensor, "channel height width"], count: Int[Tensor, "height width"]
) -> Float[Tensor, "1 channel height width"]:
    overall = (total.sum(dim=(1, 2)) / count.sum())[:, None, None]
    return torch.where(count > 0, total / count.clamp_min(1), overall)[None].float()


def _majority(
    total: Int[Tensor, "classes height width"], count: Int[Tensor, "height width"]
) -> Int[Tensor, "1 height width"]:
    overall = total.sum(dim=(1, 2)).argmax()
    return torch.where(count > 0, total.argmax(dim=0), overall)[None]


def _label_counts(
    labels: Int[Tensor, "batch height width"], mask: Bool[Tensor, "batch height width"], classes: int
) -> Int[Tensor, "classes height width"]:
    return torch.stack([(mask & (labels == label)).sum(dim=0) for label in range(classes)])
