"""Losses of an image discriminator and of the generator it judges: nats per row.

A row's loss is the weighted mean over its logits, so that sums over rows divided by the global batch
mean the same for any number of processes. Row i of the real scenes is paired with row i of the fakes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.config.objective import ImageAdversary
from pipeline.models.fusion import at_least_float32

Kind = Literal["relativistic", "nonsaturating", "hinge"]

LARGEST_ADAPTIVE_WEIGHT = 10.0
"""Per event: however small the discriminator's gradient becomes, it is not blown up further."""


def discriminator_loss(
    kind: Kind,
    real: Float[Tensor, "batch logit"],
    fake: Float[Tensor, "batch logit"],
    weights: Float[Tensor, " logit"],
) -> Float[Tensor, " batch"]:
    """What the discriminator minimises.

    Relativistic: softplus(fake - real), log 2 for a discriminator that cannot tell, unchanged by adding
    a constant to all logits. Non-saturating: softplus(-real) + softplus(fake). Hinge: max(0, 1 - real) +
    max(0, 1 + fake).

    Args:
        kind: Which loss.
        real: Logits of real scenes.
        fake: Logits of the fakes paired with them.
        weights: Share of each logit, summing to 1.

    Source: relativistic: Jolicoeur-Martineau 2018 (arXiv:1807.00734) and Huang et al. 2024
        (arXiv:2501.05441); non-saturating: Goodfellow et al. 2014 (arXiv:1406.2661); hinge: Lim & Ye 2017
        (arXiv:1705.02894).
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    match kind:
        case "relativistic":
            each = F.softplus(fake - real)
        case "nonsaturating":
            each = F.softplus(-real) + F.softplus(fake)
        case "hinge":
            each = F.relu(1.0 - real) + F.relu(1.0 + fake)
    return (each * weights).sum(dim=1)


def generator_loss(
    kind: Kind,
    real: Float[Tensor, "batch logit"],
    fake: Float[Tensor, "batch logit"],
    weights: Float[Tensor, " logit"],
) -> Float[Tensor, " batch"]:
    """What the generator minimises: it falls as the logits of the fakes rise.

    Relativistic: softplus(real - fake). Non-saturating: softplus(-fake). Hinge: -fake.

    Args:
        kind: Which loss.
        real: Logits of real scenes.
        fake: Logits of the fakes paired with them.
        weights: Share of each logit, summing to 1.

    Source: As of `discriminator_loss`.
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    match kind:
        case "relativistic":
            each = F.softplus(real - fake)
        case "nonsaturating":
            each = F.softplus(-fake)
        case "hinge":
            each = -fake
    return (each * weights).sum(dim=1)


def gradient_penalty(
    logits: Float[Tensor, "batch logit"],
    scene: Float[Tensor, "batch *sizes feature"],
    weights: Float[Tensor, " logit"],
    metric: Float[Tensor, "feature feature"] | None = None,
) -> Float[Tensor, " batch"]:
    """|d sum_k sqrt(weight_k) logit_k / d scene|^2 of each row: R1 at real scenes, R2 at fakes.

    One logit: the squared gradient of the discriminator. Logits whose receptive fields do not overlap:
    the weighted mean of their squared gradients, so that a patch is held as firmly as a whole scene is,
    however many patches there are.

    The graph of the gradient is kept for the discriminator's weights. Not under autocast: squares of
    small bfloat16 gradients, differentiated once more, are noise.

    Args:
        logits: In which rows do not mix, computed from the very tensor that comes next.
        scene: The scenes; or W scene_p + b of every part p of them, with a `metric`.
        weights: Share of each logit, summing to 1.
        metric: W W^T. The gradient at a part is then W^T g, with g that at what was embedded, and
            |W^T g|^2 = g^T W W^T g: the same number, without the gradient of every pixel.

    Source: Mescheder, Geiger & Nowozin 2018 (arXiv:1801.04406), R1 and R2, without the factor
        gamma / 2.
    """
    assert not torch.is_autocast_enabled(scene.device.type)
    combined = (logits * weights.to(logits.dtype).sqrt()).sum()
    (gradient,) = torch.autograd.grad(combined, scene, create_graph=True)
    other = gradient if metric is None else gradient @ metric
    return (gradient * other).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class Ramp:
    """Where the schedule of an image adversary stands.

    Attributes:
        weight: Of the generator's loss, 0 to 1.
        learns: Whether the discriminator is trained.
    """

    weight: float
    learns: bool


def ramp(samples_seen: int, section: ImageAdversary) -> Ramp:
    """Reconstruction alone, then the discriminator learns alone, then its weight rises linearly to 1.

    Args:
        samples_seen: Including the update it is for.
        section: Lengths of the three parts.
    """
    learning = samples_seen - section.start_samples
    rising = learning - section.warmup_samples
    share = min(1.0, rising / section.ramp_samples) if section.ramp_samples > 0 else 1.0
    return Ramp(share if rising > 0 else 0.0, learning > 0)


def adaptive_weight(
    reconstruction_norm: Float[Tensor, ""], adversarial_norm: Float[Tensor, ""], events: int
) -> Float[Tensor, ""]:
    """Factor that makes the two gradients alike in norm, at most 10 per event of a row; detached.

    The limit is per event because reconstructions are in nats summed over the events of a row, the
    generator's loss in nats per row: in the units of losses averaged over pixels it is 10.

    Args:
        reconstruction_norm: Of the gradient of the reconstruction at what was decoded, over the global
            batch.
        adversarial_norm: Of the gradient of the generator's loss, likewise.
        events: Values that a row's reconstruction sums over.

    Source: Esser, Rombach & Ommer 2021 (arXiv:2012.09841), the adaptive weight, whose gradients are at
        the last layer of the decoder; here there are several decoders, and what they decode is common ground.
    """
    ratio = reconstruction_norm.detach() / (adversarial_norm.detach() + 1e-6)
    return ratio.clamp(max=LARGEST_ADAPTIVE_WEIGHT * events)
