"""An exponential moving average of weights, whose half-life is counted in samples."""

import torch
from torch import nn

from pipeline.training.sharding import local

RAMP_SHARE = 0.05
"""The half-life never exceeds this share of what was seen, so that the first weights are forgotten."""


@torch.no_grad()
def update_average(
    average: nn.Module, model: nn.Module, *, samples_seen: int, batch: int, half_life_samples: int
) -> None:
    """Move the average towards the model by one update.

    Args:
        average: Changed in place.
        model: The weights being trained.
        samples_seen: Including this update.
        batch: Global batch size.
        half_life_samples: After so many samples a weight counts half; 0: the average is the model.

    Source: Karras et al. 2022 (arXiv:2206.00364), appendix F.2, half-life with ramp-up.
    """
    half_life = min(float(half_life_samples), RAMP_SHARE * samples_seen)
    share = 1.0 - 0.5 ** (batch / half_life) if half_life > 0.0 else 1.0
    kept_weights = [local(parameter) for parameter in average.parameters()]
    torch._foreach_lerp_(kept_weights, [local(parameter) for parameter in model.parameters()], share)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)
