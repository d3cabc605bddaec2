"""-log p(x_m | z) of each modality: nats per row, summed over valid events (pixels and channels).

Rows that lack a modality, and pixels without a value, contribute an exact 0 whose graph is intact, and
whatever number stands there, NaN included, reaches neither loss nor gradient.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.config.objective import Objective
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import IGNORE_INDEX
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Decoded


def nll(
    model: SharedLatentAutoencoder, decoded: Decoded, batch: Batch, objective: Objective
) -> dict[str, Float[Tensor, " batch"]]:
    """Of each modality in the batch, in the units of training: RGB in 0..1, depth standardised.

    Weights of the objective are not applied. `reported_nll` converts to units that compare
    between models.
    """
    scales = model.scales()
    rows: dict[str, Tensor] = {}
    for name, modality in batch.modalities.items():
        mask = event_mask(modality)
        match name:
            case "rgb" if decoded.rgb is not None:
                density = objective.rgb.density
                rows[name] = (
                    cross_entropy(decoded.rgb, modality.value, mask)
                    if density == "bce"
                    else located_nll(decoded.rgb, modality.value, mask, scales[name], density)
                )
            case "depth" if decoded.depth is not None:
                target = model.standardise(modality.value, mask)
                rows[name] = located_nll(decoded.depth, target, mask, scales[name], objective.depth.density)
            case "seg" if decoded.seg is not None:
                rows[name] = categorical_nll(decoded.seg, modality.value, mask)
    return rows


def located_nll(
    location: Float[Tensor, "batch channel height width"],
    value: Float[Tensor, "batch channel height width"],
    valid: Bool[Tensor, "batch height width"],
    scale: Float[Tensor, ""],
    density: Literal["gaussian", "laplace"],
) -> Float[Tensor, " batch"]:
    """Negative log of a Gaussian or Laplace density of one scale, summed over channels of valid pixels.

    Gaussian: |x - location|^2 / (2 scale^2) + ln scale + ln(2 pi) / 2, whose optimum over the scale is
    (ln(2 pi MSE) + 1) / 2 per event. Laplace: |x - location| / scale + ln(2 scale).

    Source: Rybkin, Daniilidis & Levine 2021 (arXiv:2006.13202), sigma-VAE, on learning the scale.
    """
    error = torch.where(valid[:, None], location - value, 0.0).flatten(1)
    events = valid.flatten(1).sum(dim=1) * location.shape[1]
    match density:
        case "gaussian":
            return 0.5 * error.square().sum(dim=1) / scale.square() + events * (
                scale.log() + 0.5 * math.log(2 * math.pi)
            )
        case "laplace":
            return error.abs().sum(dim=1) / scale + events * (scale.log() + math.log(2.0))


def cross_entropy(
    share: Float[Tensor, "batch channel height width"],
    value: Float[Tensor, "batch channel height width"],
    valid: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """-x ln y - (1 - x) ln(1 - y), summed over channels of valid pixels: least where y = x, but not 0 there.

    No density over values between 0 and 1, whose normaliser it lacks (Loaiza-Ganem & Cunningham 2019,
    arXiv:1907.06845), so totals with it bound no log p(x). It is one of values that are 0 or 1, and else
    a robust error: its gradient at the logit of y is y - x.

    Args:
        share: y, in 0..1: the sigmoid of what a network gives.
        value: x, in 0..1.
        valid: Where there is a value.

    Source: Vincent et al. 2008 (ICML), reconstruction cross-entropy; Kingma & Welling 2013
        (arXiv:1312.6114), the Bernoulli decoder.
    """
    mask = valid[:, None]
    share, value = torch.where(mask, share, 0.5), torch.where(mask, value, 0.0)
    cost = F.binary_cross_entropy(share, value.to(share.dtype), reduction="none")
    return torch.where(mask, cost, 0.0).flatten(1).sum(dim=1)


def categorical_nll(
    logits: Float[Tensor, "batch class height width"],
    labels: Int[Tensor, "batch height width"],
    valid: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Cross-entropy of the label under a softmax over classes, summed over valid pixels."""
    target = torch.where(valid, labels, IGNORE_INDEX)
    by_pixel = rearrange(logits, "batch label height width -> (batch height width) label")
    cost = F.cross_entropy(by_pixel, target.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return cost.view(len(labels), -1).sum(dim=1)


def event_mask(modality: ModalityBatch) -> Bool[Tensor, "batch height width"]:
    """Pixels that have a value in rows that have the modality."""
    return modality.valid & modality.present[:, None, None]


def reported_nll(
    model: SharedLatentAutoencoder, rows: dict[str, Float[Tensor, " batch"]], batch: Batch
) -> dict[str, Float[Tensor, " batch"]]:
    """`nll` as densities over grey values 0..255 and over metres, which compare between models.

    A density changes by the Jacobian of the change of units, per valid event:

    - RGB, v = 255 x: + ln 255. With scales above one grey value this is, to rounding, the -log
      probability of the 8-bit value itself (equivalently: of the dequantised one).
    - Depth, metric, s = (d - mean) / std: + ln std. Log, s = (ln d - mean) / std: + ln std + ln d.
    - Labels are discrete: nothing changes.

    Args:
        model: Whose units the rows are in.
        rows: What `nll` returned for the batch.
        batch: The data the rows are of.
    """
    reported = dict(rows)
    for name, row in rows.items():
        mask = event_mask(batch.modalities[name])
        pixels = mask.flatten(1).sum(dim=1)
        if name == "rgb":
            reported[name] = row + 3 * pixels * math.log(255.0)
        elif name == "depth":
            reported[name] = row + pixels * math.log(model.units.depth_std)
            if model.units.depth_space == "log":
                depth_m = torch.where(mask[:, None], batch.modalities[name].value, 1.0)
                reported[name] = reported[name] + depth_m.log().flatten(1).sum(dim=1)
    return reported
