"""The constant predictor: the best single scene for a training set, which every model has to beat."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.metrics.fidelity import Prediction


def constant_scene(batches: Iterable[Batch], classes: int) -> Prediction:
    """Per pixel the mean RGB, the mean depth and the most frequent label, in one pass.

    A pixel without any value in the training data takes the mean (label: the most frequent) of all pixels.

    Args:
        batches: Training samples; at least one.
        classes: Number of labels.

    Returns:
        A prediction of one row; a modality of which there is no value is None.
    """
    total: dict[str, Tensor] = {}
    count: dict[str, Tensor] = {}
    for batch in batches:
        for name, modality in batch.modalities.items():
            mask = modality.valid & modality.present[:, None, None]
            if name == "seg":
                values, seen = _label_counts(modality.value, mask, classes), mask.sum(dim=0)
            else:
                values = torch.where(mask[:, None], modality.value, 0.0).double().sum(dim=0)
                seen = mask.sum(dim=0)
            total[name] = total[name] + values if name in total else values
            count[name] = count[name] + seen if name in count else seen
    known = {name for name in total if bool(count[name].any())}
    return Prediction(
        _mean(total["rgb"], count["rgb"]) if "rgb" in known else None,
        _mean(total["depth"], count["depth"]) if "depth" in known else None,
        _majority(total["seg"], count["seg"]) if "seg" in known else None,
    )


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
