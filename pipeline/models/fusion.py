"""How the experts of the modalities become one posterior, and which of them get a say.

All of it is elementwise over latents and independent between rows, and computed in float32 or better
whatever precision the experts come in.
"""

from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.models.gaussian import Gaussian

PriorExperts = Literal["none", "full", "all"]


def product_of_experts(
    mean: Float[Tensor, "expert batch latent"],
    logvar: Float[Tensor, "expert batch latent"],
    present: Bool[Tensor, "expert batch"],
    prior_experts: PriorExperts,
) -> Gaussian:
    """Multiply the densities of the experts that are present: precisions add, means are averaged by them.

    A row without any expert gets the prior N(0, I), whatever `prior_experts` says. What an absent
    expert holds, NaN included, changes neither the result nor any gradient.

    Args:
        mean: Expert means.
        logvar: Natural log of expert variances.
        present: False where a row lacks the expert.
        prior_experts: How many unit-Gaussian experts join: `none`; `full`, one per product; `all`, one
            with each expert that is present.

    Returns:
        The fused posterior.

    Raises:
        ValueError: If the expert axis has length zero.

    Source: Hinton 2002, products of experts; Wu & Goodman 2018 (arXiv:1802.05335), the joint posterior
        as a product of experts. Softmax and log-sum-exp keep log-variances of any size finite.
    """
    if mean.shape[0] == 0:
        raise ValueError("mean has no expert: a product of experts needs at least one")
    mean, logvar = at_least_float32(mean), at_least_float32(logvar)
    mask = present[..., None]
    log_precision = torch.where(mask, -logvar, -torch.inf)
    prior_log_precision = _prior_count(present, prior_experts).to(logvar.dtype).log()
    prior_row = prior_log_precision[None, :, None].expand(1, -1, logvar.shape[-1])
    log_precision = torch.cat([log_precision, prior_row])
    weight = log_precision.softmax(dim=0)[:-1]
    fused_mean = (weight * torch.where(mask, mean, 0.0)).sum(dim=0)
    return Gaussian(fused_mean, -log_precision.logsumexp(dim=0))


def subset_masks(count: int) -> Bool[Tensor, "subset modality"]:
    """Every non-empty subset of `count` modalities; row k - 1 holds the binary digits of k, lowest first."""
    rows = [digits[::-1] for digits in product((False, True), repeat=count)]
    return torch.tensor(rows[1:], dtype=torch.bool)


def draw_subset(
    present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, " batch"]
) -> Bool[Tensor, "modality batch"]:
    """One subset per row, uniform over the non-empty subsets of what is present in that row.

    Args:
        present: What each row has.
        uniform: One number in [0, 1) per row, which decides the draw.

    Returns:
        What each row is encoded from; nothing where nothing is present.

    Source: Sutter, Daunhawer & Vogt 2021 (arXiv:2105.02470): their mixture over subsets, one drawn per row.
    """
    subsets = (1 << present.sum(dim=0)) - 1
    chosen = (uniform * subsets).long().clamp(max=subsets - 1) + 1
    position = present.long().cumsum(dim=0) - 1
    return present & ((chosen >> position.clamp(min=0)) & 1).bool()


def choose_given(
    fusion: str, present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, " batch"]
) -> Bool[Tensor, "modality batch"]:
    """What the posterior of each row sees in training: a drawn subset, or all that is present.

    Args:
        fusion: `poe`, `mopoe` or `mvtcae`.
        present: What each row has.
        uniform: One number in [0, 1) per row.

    Raises:
        ValueError: If the fusion is unknown.
    """
    match fusion:
        case "mopoe":
            return draw_subset(present, uniform)
        case "poe" | "mvtcae":
            return present
        case _:
            raise ValueError(f"fusion {fusion!r} is unknown; choose poe, mopoe or mvtcae")


def at_least_float32(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision becomes float32; float32 and float64 stay."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _prior_count(present: Bool[Tensor, "expert batch"], prior_experts: PriorExperts) -> Tensor:
    experts = present.sum(dim=0)
    match prior_experts:
        case "none":
            count = torch.zeros_like(experts)
        case "full":
            count = torch.ones_like(experts)
        case "all":
            count = experts
    return torch.where(experts > 0, count, 1)
