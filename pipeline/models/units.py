"""The units that networks work in, and the way there and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.data.batch import ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics


@dataclass(frozen=True)
class Units:
    """How the samples of a dataset stand in network units.

    Attributes:
        classes: Number of labels.
        depth_space: `metric` or `log`: what depth is standardised in.
        depth_mean: Over the training set, in that space.
        depth_std: Likewise.
    """

    classes: int
    depth_space: str
    depth_mean: float
    depth_std: float

    def standardise(
        self, depth_m: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """Metres to (metres - mean) / std, or its like of log metres; 0, the mean, where invalid."""
        mask = valid[:, None]
        value = torch.where(mask, depth_m, 1.0)
        value = value.log() if self.depth_space == "log" else value
        return torch.where(mask, (value - self.depth_mean) / self.depth_std, 0.0)

    def to_metres(
        self, standardised: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The inverse of `standardise`."""
        value = standardised * self.depth_std + self.depth_mean
        return value.exp() if self.depth_space == "log" else value

    def channels(self, name: str) -> int:
        """Of `network_input`: depth comes with its validity, labels one-hot."""
        return {"rgb": 3, "depth": 2, "seg": self.classes}[name]

    def decoded_channels(self, name: str) -> int:
        """Of `Decoded`: labels have a logit each."""
        return {"rgb": 3, "depth": 1, "seg": self.classes}[name]

    def network_input(
        self, name: str, modality: ModalityBatch, dtype: torch.dtype
    ) -> Float[Tensor, "batch channel height width"]:
        """Values centred on 0, and 0 wherever there is none: nothing else of such a pixel is ever seen."""
        mask = modality.valid & modality.present[:, None, None]
        match name:
            case "rgb":
                image = torch.where(mask[:, None], modality.value.to(dtype) - 0.5, 0.0)
            case "depth":
                standardised = self.standardise(modality.value.to(dtype), mask)
                image = torch.cat([standardised, mask[:, None].to(dtype)], dim=1)
            case _:
                image = self._one_hot(torch.where(mask, modality.value, self.classes), dtype)
        return image.contiguous(memory_format=torch.channels_last)

    def _one_hot(
        self, labels: Int[Tensor, "batch height width"], dtype: torch.dtype
    ) -> Float[Tensor, "batch class height width"]:
        """Rows of an identity matrix, which beats comparing with every class; all zero for no label."""
        rows = torch.eye(self.classes + 1, self.classes, dtype=dtype, device=labels.device)
        return F.embedding(labels, rows).permute(0, 3, 1, 2)


def units_of(info: DatasetInfo, depth_space: str) -> Units:
    """Those of a dataset."""
    mean, std = _depth_moments(info.depth, depth_space)
    return Units(len(info.class_names), depth_space, mean, std)


def _depth_moments(statistics: DepthStatistics | None, space: str) -> tuple[float, float]:
    if statistics is None:
        return 0.0, 1.0
    mean, std = (
        (statistics.log_mean, statistics.log_std) if space == "log" else (statistics.mean_m, statistics.std_m)
    )
    return mean, std if std > 0.0 else 1.0
